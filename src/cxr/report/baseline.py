"""What the films' metadata alone would score: a model that never sees a pixel, to stand beside one that does."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# NIH's ages run to over 400 years where someone mistyped
OLDEST_YEARS = 100


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


def fit_metadata(films: pd.DataFrame, target: np.ndarray) -> Guess | None:
    """A logistic regression from metadata to a text-mined finding.

    Args:
        films: of train_val: view, sex, age (years), follow_up.
        target: (N,) 1 or 0; films where it is NaN are left out.

    Returns:
        films -> (N,) scores on the logit scale; None where the target has one class only.
    """
    known = ~np.isnan(target)
    if np.unique(target[known]).size < 2:
        return None
    fitted = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky")).fit(metadata_features(films[known]), target[known])

    def score(asked: pd.DataFrame) -> np.ndarray:
        scores: np.ndarray = fitted.decision_function(metadata_features(asked))
        return scores

    return score
