"""Mirrors report/shortcuts.py: against loops over scikit-learn, and probes of features whose answer is known."""

from typing import Any

import made_up
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr.report import shortcuts
from cxr.report.reference import ReferenceSet
from cxr.stats.bootstrap import logit_interval, patient_weights

N = 400


@pytest.fixture
def films() -> pd.DataFrame:
    return made_up.films(N, n_patients=150, prevalence=0.4)


@pytest.fixture
def score() -> np.ndarray:
    return np.random.default_rng(5).normal(size=N).round(1)


def test_a_film_is_in_one_group_of_each_kind_or_in_none_where_it_is_unknown(films: pd.DataFrame) -> None:
    films.loc[:9, ["age", "view", "n_films"]] = [np.nan, None, np.nan]
    for kind, of in shortcuts.groups_of(films).items():
        counts = np.sum(list(of.values()), axis=0)
        assert counts.tolist() == [0 if kind != "sex" and i < 10 else 1 for i in range(N)]
        assert shortcuts.BASE[kind] in of


def test_differences_are_those_of_a_loop_over_draws_that_serve_both_groups(films: pd.DataFrame, score: np.ndarray) -> None:
    positive, patients, groups = films["Mass"].to_numpy() == 1, films.patient_id.to_numpy(), shortcuts.groups_of(films)
    told = shortcuts.differences(score, positive, patients, groups, 0.3, draws=100, seed=2)
    one, base = groups["age"]["18 to 39"], groups["age"]["40 to 64"]
    row = told["age"]["groups"]["18 to 39"]
    assert row["n_patients_in_both"] == len(set(patients[one]) & set(patients[base])) > 20

    def area(group: np.ndarray, weights: np.ndarray) -> float:
        return float(roc_auc_score(positive[group], score[group], sample_weight=weights[group]))

    def found(group: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(score[group] >= 0.3, weights=weights[group]))

    for name, statistic, counted, sides in (("auroc", area, np.ones(N, bool), (positive, ~positive)), ("sensitivity", found, positive, (positive,))):
        inside = [one & counted, base & counted]
        either = inside[0] | inside[1]
        values = [statistic(group, np.ones(N)) for group in inside]
        drawn = np.array(
            [
                [statistic(group, np.bincount(np.flatnonzero(either), weights, N)) for group in inside]
                for weights in np.concatenate(list(patient_weights(patients[either], 100, 2)))
            ]
        )
        rarer = [min(len(set(patients[group & side])) for side in sides) for group in inside]
        (low, high), (low_base, high_base) = [logit_interval(value, of, n) for value, of, n in zip(values, drawn.T, rarer, strict=True)]
        r = np.corrcoef(drawn.T)[0, 1]
        below, above = (values[0] - low, high_base - values[1]), (high - values[0], values[1] - low_base)
        difference = values[0] - values[1]
        assert row[name]["value"] == pytest.approx(difference, abs=1e-12)
        assert row[name]["lo"] == pytest.approx(difference - np.sqrt(below[0] ** 2 + below[1] ** 2 - 2 * r * below[0] * below[1]), abs=1e-9)
        assert row[name]["hi"] == pytest.approx(difference + np.sqrt(above[0] ** 2 + above[1] ** 2 - 2 * r * above[0] * above[1]), abs=1e-9)


def test_a_group_of_few_patients_has_no_difference_and_says_why_and_without_a_threshold_there_is_no_rate(films: pd.DataFrame, score: np.ndarray) -> None:
    positive = (films["Mass"] == 1).to_numpy() & (films["view"] == "PA").to_numpy()
    told = shortcuts.differences(score, positive, films.patient_id.to_numpy(), shortcuts.groups_of(films), None, draws=100, seed=0)
    assert told["view"]["groups"]["AP"]["reason"] == "too few: 0 positive patients, fewer than 10"
    assert told["view"]["groups"]["AP"]["auroc"] is None
    female = told["sex"]["groups"]["F"]
    assert female["auroc"]
    assert female["sensitivity"] is female["specificity"] is None


def test_two_groups_that_are_told_apart_without_an_error_differ_by_nought_give_or_take(films: pd.DataFrame) -> None:
    positive = films["Mass"].to_numpy() == 1
    told = shortcuts.differences(positive.astype(float), positive, films.patient_id.to_numpy(), shortcuts.groups_of(films), 0.5, draws=100, seed=0)
    for number in ("auroc", "sensitivity", "specificity"):
        of = told["view"]["groups"]["AP"][number]
        assert of["value"] == 0.0
        assert of["lo"] < -0.01 < 0.01 < of["hi"]


# --- probes -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sets() -> tuple[Any, ReferenceSet, ReferenceSet]:
    val, test = made_up.films(300, first_patient=1000), made_up.films(N)
    return made_up.predictions(val, test), made_up.nih(val, "nih_val", "val"), made_up.nih(test)


def features_of(*references: ReferenceSet, n: int, seed: int = 0) -> pd.DataFrame:
    """n features: noise, but that the first tells the view, and the second the age a little."""
    films, rng = pd.concat([reference.films for reference in references]), np.random.default_rng(seed)
    features = rng.normal(size=(len(films), n)).astype(np.float32)
    features[:, 0] += 8 * (films["view"] == "AP")
    features[:, 1] += 2 * (films["age"] >= 60)
    return pd.DataFrame(features, index=films.image_id.to_numpy())


@pytest.mark.parametrize("n", [20, 120], ids=["exact steps", "wide"])
def test_a_probe_reads_off_the_features_what_they_hold_and_nothing_else(sets: Any, n: int) -> None:
    predictions, val, test = sets
    features = features_of(val, test, n=n).sample(frac=1.0, random_state=1)  # rows meet by image_id
    told = shortcuts.probes(predictions, features, [val], test, draws=100, seed=0)
    assert (told["fitted_on"], told["tested_on"], told["n_features"]) == (["nih_val"], "nih_test", n)
    assert told["view"] | {"n_fitted": 300, "n_images": N, "n_pos": int((test.films["view"] == "AP").sum())} == told["view"]
    assert told["view"]["features"]["auroc"]["value"] > 0.99
    assert 0.8 < told["age"]["features"]["auroc"]["value"] < 0.99
    for kind, name in (("sex", "features"), ("view", "logits"), ("sex", "logits"), ("view", "labels")):
        area = told[kind][name]["auroc"]
        assert area["lo"] < 0.5 < area["hi"]


def test_a_probe_is_scikit_learns_regression_scored_on_other_patients(sets: Any) -> None:
    predictions, val, test = sets
    told = shortcuts.probes(predictions, None, [val], test, draws=100, seed=0)["sex"]
    logits = predictions.table.set_index("image_id").filter(like="logit_").astype(float)
    fitted, tested = (logits.loc[reference.films.image_id].to_numpy() for reference in (val, test))
    scale, mean = fitted.std(axis=0), fitted.mean(axis=0)
    answers = [(reference.films["sex"] == "M").to_numpy() for reference in (val, test)]
    areas = []
    for strength in (1e-3, 1e-2, 1e-1, 1.0):
        regression = LogisticRegression(C=strength, tol=1e-8).fit((fitted - mean) / scale, answers[0])
        areas.append(roc_auc_score(answers[1], regression.decision_function((tested - mean) / scale)))
    assert np.min(np.abs(np.array(areas) - told["logits"]["auroc"]["value"])) < 1e-4
    assert told["features"] == {"auroc": None, "reason": "no features were kept"}


def test_a_probe_is_never_scored_on_a_patient_that_it_was_fitted_on(sets: Any) -> None:
    predictions, val, test = sets
    val.films.loc[0, "patient_id"] = test.films.patient_id.iloc[0]
    with pytest.raises(ValueError, match="patients of nih_test are among those"):
        shortcuts.probes(predictions, None, [val], test, draws=100, seed=0)


def test_what_cannot_be_asked_is_told_with_its_reason(sets: Any) -> None:
    predictions, val, test = sets
    val.films["view"], test.films["age"] = "PA", np.nan
    told = shortcuts.probes(predictions, None, [val], test, draws=100, seed=0)
    assert told["view"]["labels"]["reason"].startswith("0 patients with it and")
    assert (told["age"]["n_images"], told["age"]["logits"]["reason"]) == (0, "too few: 0 positive patients, fewer than 10")
