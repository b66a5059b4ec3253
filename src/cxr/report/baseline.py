"""What the films' metadata alone would score: a model that never sees a pixel, to stand beside one that does."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# NIH's ages run to over 400 years where someone mistyped
OLDEST_YEARS = 100


# what is known of a film -> its columns among the features
COLUMNS = {"view": [0], "sex": [1], "age": [2, 3], "follow_up": [4, 5]}

# films -> (N,) scores on the logit scale
Guess = Callable[[pd.DataFrame], np.ndarray]


def metadata_features(films: pd.DataFrame) -> np.ndarray:
    """(N, 6): view, sex, age and its square, follow-up number on a log scale, and whether it is the first film.

    >>> metadata_features(pd.DataFrame({"view": ["AP"], "sex": ["F"], "age": [50.0], "follow_up": [0]})).tolist()
    [[1.0, 0.0, 50.0, 2500.0, 0.0, 1.0]]
    """
    age = films["age"].clip(upper=OLDEST_YEARS).to_numpy(np.float64)
    follow_up = films["follow_up"].to_numpy(np.float64)
    return np.stack([films["view"] == "AP", films["sex"] == "M", age, age**2, np.log1p(follow_up), follow_up == 0], axis=1).astype(np.float64)


def fit_metadata(films: pd.DataFrame, target: np.ndarray, known_of: Iterable[str] = COLUMNS) -> Guess | None:
    """A logistic regression from metadata to a text-mined finding.

    Args:
        films: of train_val: view, sex, age (years), follow_up.
        target: (N,) 1 or 0; films where it is NaN are left out.
        known_of: the films, of COLUMNS.

    Returns:
        films -> (N,) scores on the logit scale; None where the target has one class only.
    """
    known, columns = ~np.isnan(target), [column for name in known_of for column in COLUMNS[name]]
    if np.unique(target[known]).size < 2:
        return None
    fitted = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky")).fit(metadata_features(films[known])[:, columns], target[known])

    def score(asked: pd.DataFrame) -> np.ndarray:
        scores: np.ndarray = fitted.decision_function(metadata_features(asked)[:, columns])
        return scores

    return score
