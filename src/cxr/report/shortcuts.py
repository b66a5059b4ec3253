"""Whether a model may be taking a shortcut: how it does by view, sex, age and films of a patient, and what it tells of who was filmed, and how."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cxr.cohort.findings import NIH_FINDINGS
from cxr.report.mapping import fit_probe, logits_of
from cxr.report.predictions import Predictions
from cxr.report.reading import estimate, too_few_patients
from cxr.report.reference import ReferenceSet
from cxr.stats.bootstrap import bootstrap, bootstrap_between_groups
from cxr.stats.ranking import auroc

AGE_BANDS = {"under 18": (-np.inf, 18), "18 to 39": (18, 40), "40 to 64": (40, 65), "65 and over": (65, np.inf)}  # years
FILM_BANDS = {"1": (1, 2), "2 to 9": (2, 10), "10 and more": (10, np.inf)}  # films of the patient in the data set
# the group that the others of a kind are held against
BASE = {"view": "PA", "sex": "M", "age": "40 to 64", "n_films": "1"}
# what a probe is asked of a film; a film for which the answer is unknown is left out
OLD_YEARS = 60
QUESTIONS: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    "view": lambda films: films["view"] == "AP",
    "sex": lambda films: films["sex"] == "M",
    "age": lambda films: films["age"] >= OLD_YEARS,
}
DRAWS = 500  # at most: many numbers, none of which decides anything

Groups = Mapping[str, Mapping[str, np.ndarray]]


def groups_of(films: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """view, sex, age and n_films -> group -> (N,) bool, which films are in it; a film for which it is unknown is in none."""
    told: dict[str, dict[str, np.ndarray]] = {
        kind: {name: (films[kind] == name).to_numpy() for name in names} for kind, names in (("view", ("PA", "AP")), ("sex", ("F", "M")))
    }
    for kind, bands in (("age", AGE_BANDS), ("n_films", FILM_BANDS)):
        told[kind] = {name: ((films[kind] >= least) & (films[kind] < most)).to_numpy() for name, (least, most) in bands.items()}
    return told


def differences(
    score: np.ndarray, positive: np.ndarray, patients: np.ndarray, groups: Groups, threshold: float | None, *, draws: int, seed: int
) -> dict[str, Any]:
    """How much better or worse one group's films are told apart than another's.

    Args:
        score, positive, patients: (N,) of the films whose label is known.
        groups: of these films, from `groups_of`.
        threshold: of a yes; None where there is none.
        draws, seed: of the bootstrap; at most DRAWS.

    Returns:
        kind -> {"base": the group that the others are held against, "groups": {each of the others: {auroc, sensitivity, specificity: the difference or None,
        n_patients_in_both}, or the "reason" why there is none}}.
    """

    def one_less_base(inside: np.ndarray, base: np.ndarray) -> dict[str, Any]:
        both = int(np.intersect1d(patients[inside], patients[base]).size)
        told: dict[str, Any] = {"auroc": None, "sensitivity": None, "specificity": None, "n_patients_in_both": both}
        for group in (inside, base):
            if reason := too_few_patients(positive[group], patients[group]):
                return told | {"reason": reason}
        told["auroc"] = _less(auroc, score, positive, patients, (inside, base), draws, seed)
        if threshold is not None:
            called = (score >= threshold).astype(np.float64)
            for rate, right, films in (("sensitivity", called, positive), ("specificity", 1 - called, ~positive)):
                told[rate] = _less(_share, right, films, patients, (inside & films, base & films), draws, seed)
        return told

    return {
        kind: {"base": BASE[kind], "groups": {name: one_less_base(inside, of[BASE[kind]]) for name, inside in of.items() if name != BASE[kind]}}
        for kind, of in groups.items()
    }


def _less(
    statistic: Callable[..., np.ndarray],
    value: np.ndarray,
    positive: np.ndarray,
    patients: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray],
    draws: int,
    seed: int,
) -> dict[str, float] | None:
    """The statistic of the first group's films less that of the second's."""
    rows = groups[0] | groups[1]
    value, positive, patients, one, other = (array[rows] for array in (value, positive, patients, *groups))

    def of(group: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda weights: statistic(value[group], positive[group], weights[:, group])

    sides = [[patients[group & side] for side in (positive, ~positive) if (group & side).any()] for group in (one, other)]
    n_one, n_other = (min(np.unique(side).size for side in of_group) for of_group in sides)
    between = bootstrap_between_groups(of(one), of(other), patients, n_deciding=(n_one, n_other), n_draws=min(draws, DRAWS), seed=seed)
    return estimate(between)


def _share(right: np.ndarray, _: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) what share of the films is right; NaN where none weighs anything."""
    total = weights.sum(axis=1)
    result: np.ndarray = np.divide(weights @ right, total, out=np.full(len(weights), np.nan), where=total > 0)
    return result


def probes(
    predictions: Predictions, features: pd.DataFrame | None, fitted_on: ReferenceSet, tested_on: ReferenceSet, *, draws: int, seed: int
) -> dict[str, Any]:
    """How well a film's view, sex and age can be read off what the model makes of it, by a logistic regression: fitted on some patients, tested on others.

    Beside the model's features and its logits stand the text-mined labels, which tell what the findings themselves give away: bedside films are of sicker
    patients.

    Args:
        predictions: of one model.
        features: (n, D) of its network, indexed by image_id; None where they were not kept.
        fitted_on, tested_on: sets of the same data set without a patient in common.
        draws, seed: of the bootstrap (at most DRAWS) and of the probe's folds.

    Returns:
        fitted_on, tested_on: the sets' names; n_features; and view, sex, age: {n_fitted, n_images, n_pos, and of labels, logits and features each
        {"auroc": the number or None, "reason"}}.

    Raises:
        ValueError: a patient is in both sets.
    """
    if set(fitted_on.films.patient_id) & set(tested_on.films.patient_id):
        raise ValueError(f"{fitted_on.name} and {tested_on.name} share patients: a probe would be scored on whom it was fitted on")
    inputs: dict[str, pd.DataFrame | None] = {
        "labels": pd.concat([of.films.set_index("image_id")[list(NIH_FINDINGS)] for of in (fitted_on, tested_on)]).fillna(0.0),
        "logits": pd.concat([logits_of(predictions, of) for of in (fitted_on, tested_on)]),
        "features": features,
    }

    def ask(question: Callable[[pd.DataFrame], "pd.Series[bool]"], kind: str) -> dict[str, Any]:
        known = [of.films[of.films[kind].notna() & of.films.image_id.isin(predictions.table.image_id)] for of in (fitted_on, tested_on)]
        (answers, asked), (patients, asked_patients) = ([question(films).to_numpy() for films in known], [films.patient_id.to_numpy() for films in known])
        told: dict[str, Any] = {"n_fitted": len(answers), "n_images": len(asked), "n_pos": int(asked.sum())}
        few = too_few_patients(asked, asked_patients)
        for name, given in inputs.items():
            if given is None:
                told[name] = {"auroc": None, "reason": "no features were kept"}
                continue
            probe = few or fit_probe(given.loc[known[0].image_id].to_numpy(np.float64), answers, patients, seed=seed)
            if isinstance(probe, str):
                told[name] = {"auroc": None, "reason": probe}
                continue
            guessed = probe.score(given.loc[known[1].image_id].to_numpy(np.float64))
            told[name] = {"auroc": estimate(bootstrap(auroc, guessed, asked, asked_patients, n_draws=min(draws, DRAWS), seed=seed))}
        return told

    told: dict[str, Any] = {"fitted_on": fitted_on.name, "tested_on": tested_on.name, "n_features": None if features is None else features.shape[1]}
    return told | {kind: ask(question, kind) for kind, question in QUESTIONS.items()}
