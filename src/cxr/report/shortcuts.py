"""Whether a model may be taking a shortcut: how it does by view, sex, age and films of a patient, and what it tells of who was filmed, and how."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.cohort.findings import NIH_FINDINGS
from cxr.report.mapping import fit_probe
from cxr.report.predictions import Predictions
from cxr.report.reading import estimate, too_few_patients
from cxr.report.reference import ReferenceSet
from cxr.stats.bootstrap import bootstrap, bootstrap_between_groups
from cxr.stats.ranking import auroc

AGE_BANDS = {"under 18": (-np.inf, 18), "18 to 39": (18, 40), "40 to 64": (40, 65), "65 and over": (65, np.inf)}  # years
FILM_BANDS = {"1": (1, 2), "2 to 9": (2, 10), "10 and more": (10, np.inf)}  # films of the patient in the data set
# the group that the others of a kind are held against
BASE = {"view": "PA", "sex": "M", "age": "40 to 64", "n_films": "10 and more"}  # of most films
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
    predictions: Predictions, features: pd.DataFrame | None, fitted_on: Sequence[ReferenceSet], tested_on: ReferenceSet, *, draws: int, seed: int
) -> dict[str, Any]:
    """How well a film's view, sex and age can be read off what the model makes of it, by a logistic regression: fitted on some patients, tested on others.

    Beside the model's features and its logits stand the text-mined labels, which tell what the findings themselves give away: bedside films are of sicker
    patients.

    Args:
        predictions: of one model.
        features: (n, D) of its network, indexed by image_id; None where they were not kept.
        fitted_on: sets of validation films.
        tested_on: a set of the same data set, without a patient in common with those.
        draws, seed: of the bootstrap (at most DRAWS) and of the probe's folds.

    Returns:
        fitted_on, tested_on: names of sets; n_features; and view, sex, age: {n_fitted, n_images, n_pos, and of labels, logits and features each
        {"auroc": the number or None, "reason"}}.

    Raises:
        ValueError: a patient is on both sides.
    """
    validation, test = (_predicted(references, predictions) for references in (fitted_on, [tested_on]))
    if set(validation.patient_id) & set(test.patient_id):
        raise ValueError(f"patients of {tested_on.name} are among those that the probe is fitted on, so it would be scored on whom it knows")
    told: dict[str, Any] = {
        "fitted_on": [reference.name for reference in fitted_on],
        "tested_on": tested_on.name,
        "n_features": None if features is None else features.shape[1],
    }
    logits = predictions.table.set_index("image_id")[[f"logit_{finding}" for finding in predictions.findings]]
    labels = pd.concat([validation, test]).set_index("image_id")[list(NIH_FINDINGS)].fillna(0.0)
    inputs = {"labels": labels, "logits": logits, "features": features}

    def ask(kind: str, question: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> dict[str, Any]:
        known, asked = (films[films[kind].notna()] for films in (validation, test))
        answers, wanted = question(known).to_numpy(), question(asked).to_numpy()
        patients = asked.patient_id.to_numpy()
        few = too_few_patients(wanted, patients)

        def read_off(given: pd.DataFrame | None) -> dict[str, Any]:
            if given is None:
                return {"auroc": None, "reason": "no features were kept"}
            probe = few or fit_probe(given.loc[known.image_id].to_numpy(np.float64), answers, known.patient_id.to_numpy(), seed=seed)
            if isinstance(probe, str):
                return {"auroc": None, "reason": probe}
            guessed = probe.score(given.loc[asked.image_id].to_numpy(np.float64))
            return {"auroc": estimate(bootstrap(auroc, guessed, wanted, patients, n_draws=min(draws, DRAWS), seed=seed))}

        counts = {"n_fitted": len(known), "n_images": len(asked), "n_pos": int(wanted.sum())}
        return counts | {name: read_off(given) for name, given in inputs.items()}

    questions = tqdm(QUESTIONS.items(), "probes", unit="question", disable=None, leave=False)
    return told | {kind: ask(kind, question) for kind, question in questions}


def _predicted(references: Sequence[ReferenceSet], predictions: Predictions) -> pd.DataFrame:
    """The sets' predicted films: image_id, patient_id, view, sex, age, and a column per text-mined finding."""
    columns = ["image_id", "patient_id", "view", "sex", "age"]
    films = pd.concat([of.films[columns].join(of.text_mined[list(NIH_FINDINGS)]) for of in references], ignore_index=True)
    return films[films.image_id.isin(predictions.table.image_id)]
