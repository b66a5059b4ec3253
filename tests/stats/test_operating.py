"""Mirrors stats/operating.py. The oracles are scipy, sklearn, every cut point tried, and the equations that an interval's ends must solve."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from sklearn.metrics import confusion_matrix

from cxr.stats.bootstrap import Estimate
from cxr.stats.operating import choose_threshold, clustered_wilson, diagnostic, predictive_values


def cohort(seed: int = 0, n_patients: int = 60, proportion: float = 0.9, kinship: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Hits and patients: 1-8 films each, alike through a patient effect that holds the given share of the variance."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rng.integers(1, 9, size=n_patients))
    effect = np.sqrt(kinship) * rng.normal(size=n_patients)[patients] + np.sqrt(1 - kinship) * rng.normal(size=patients.size)
    return effect < stats.norm.ppf(proportion), patients


def width(estimate: Estimate) -> float:
    return estimate.hi - estimate.lo


@pytest.mark.parametrize("n_hits", [0, 1, 11, 39, 40])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_with_one_film_per_patient_the_interval_is_that_of_wilson(n_hits: int, level: float) -> None:
    oracle = stats.binomtest(n_hits, 40).proportion_ci(level, method="wilson")
    value, lo, hi = clustered_wilson(np.arange(40) < n_hits, np.arange(40), level=level)
    assert (value, lo, hi) == pytest.approx((n_hits / 40, oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_solve_the_score_equation_at_the_effective_number_of_films(seed: int) -> None:
    hits, patients = cohort(seed, n_patients=40, kinship=0.8)
    value, lo, hi = clustered_wilson(hits, patients)
    groups = [hits[patients == patient].astype(float) for patient in np.unique(patients)]
    n, k = len(hits), len(groups)

    variance = k / (k - 1) * sum((group.sum() - value * len(group)) ** 2 for group in groups) / n**2
    measured = max(1.0, variance / (value * (1 - value) / (n - 1)))
    agreeing = sum(len(group) ** 2 for group in groups) / n
    rarer = min(sum(group.any() for group in groups), sum(not group.all() for group in groups))
    design_effect = max(measured, (rarer * measured + 0.5 * agreeing) / (rarer + 0.5))
    n_effective = n / design_effect * (stats.t(n - 1).ppf(0.975) / stats.t(k - 1).ppf(0.975)) ** 2

    assert measured > 1
    assert lo < value < hi
    for end in (lo, hi):
        assert (value - end) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * end * (1 - end) / n_effective, rel=1e-9)


@pytest.mark.parametrize("times", [2, 5])
def test_films_that_repeat_their_patient_never_narrow_the_interval(times: int) -> None:
    for seed in range(20):
        hits, patients = cohort(seed)
        for some in (patients, np.arange(hits.size)):
            again = clustered_wilson(np.repeat(hits, times), np.repeat(some, times))
            assert width(again) >= width(clustered_wilson(hits, some))
        assert width(clustered_wilson(np.repeat(hits, times), np.arange(times * hits.size))) < width(clustered_wilson(hits, patients))


def test_patients_whose_films_differ_by_chance_do_not_narrow_the_interval() -> None:
    hits, patients = np.tile([True, False], 30), np.repeat(np.arange(30), 2)
    oracle = stats.binomtest(30, 60).proportion_ci(method="wilson")
    assert width(clustered_wilson(hits, patients)) > oracle.high - oracle.low


@pytest.mark.parametrize("hit", [False, True])
def test_where_every_film_agrees_a_patient_counts_once(hit: bool) -> None:
    oracle = stats.binomtest(12 * hit, 12).proportion_ci(method="wilson")
    found = clustered_wilson(np.full(36, hit), np.repeat(np.arange(12), 3))
    assert found == pytest.approx((float(hit), oracle.low, oracle.high), abs=1e-12)
    assert found.value in (found.lo, found.hi)


def test_one_patient_alone_is_one_film_whatever_the_films_say() -> None:
    found = clustered_wilson(np.array([True, True, False, True]), np.array(["a"] * 4))
    assert found.value == 0.75
    assert width(found) > 0.75
    assert clustered_wilson(np.full(9, True), np.zeros(9)) == pytest.approx(clustered_wilson(np.array([True]), np.array([0])), abs=1e-12)


def test_without_films_a_proportion_is_undefined() -> None:
    assert np.isnan(clustered_wilson(np.array([], dtype=bool), np.array([]))).all()


def test_neither_the_order_of_films_nor_the_names_of_patients_matter() -> None:
    hits, patients = cohort()
    shuffled = np.random.default_rng(1).permutation(hits.size)
    renamed = np.array([f"patient {1000 - patient}" for patient in patients])
    assert clustered_wilson(hits[shuffled], renamed[shuffled]) == pytest.approx(clustered_wilson(hits, patients), abs=1e-12)


def test_hits_and_misses_mirror_each_other() -> None:
    hits, patients = cohort()
    of_hits, of_misses = clustered_wilson(hits, patients), clustered_wilson(~hits, patients)
    assert of_hits == pytest.approx((1 - of_misses.value, 1 - of_misses.hi, 1 - of_misses.lo), abs=1e-12)


@pytest.mark.parametrize(("n_patients", "proportion"), [(60, 0.7), (60, 0.95), (200, 0.9)])
def test_the_interval_covers_a_known_proportion_as_often_as_it_says_and_films_alone_do_not(n_patients: int, proportion: float) -> None:
    by_patient, by_film = 0, 0
    for seed in range(400):
        hits, patients = cohort(seed, n_patients, proportion, kinship=0.6)
        _, lo, hi = clustered_wilson(hits, patients)
        by_patient += lo <= proportion <= hi
        _, lo, hi = clustered_wilson(hits, np.arange(hits.size))
        by_film += lo <= proportion <= hi
    assert 0.93 <= by_patient / 400 <= 0.985
    assert by_film / 400 < 0.89


@pytest.mark.parametrize("n_levels", [2, 7, 1000], ids=["heavy ties", "some ties", "few ties"])
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_are_the_best_of_all_cut_points(n_levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.3
    scores = np.round((rng.normal(size=60) + positive) * n_levels / 6) / n_levels
    cuts = [*sorted({*scores}), math.nextafter(scores.max(), math.inf)]
    points = [(cut, sum(scores[positive] >= cut), sum(scores[~positive] < cut)) for cut in cuts]
    n_present, n_absent = sum(positive), sum(~positive)

    for target in (0.0, 0.5, 0.8, 0.9, 1.0):
        assert choose_threshold(scores, positive, rule="specificity", target=target) == min(c for c, _, spared in points if spared / n_absent >= target)
        assert choose_threshold(scores, positive, rule="sensitivity", target=target) == max(c for c, found, _ in points if found / n_present >= target)
    best = max(found * n_absent + spared * n_present for _, found, spared in points)
    assert choose_threshold(scores, positive, rule="youden") == max(c for c, found, spared in points if found * n_absent + spared * n_present == best)


def test_a_target_met_exactly_is_met() -> None:
    scores, positive = np.arange(20.0), np.arange(20) >= 10
    assert choose_threshold(scores, positive, rule="specificity", target=0.9) == 9
    assert choose_threshold(scores, positive, rule="sensitivity", target=0.9) == 11


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_specificity_that_no_score_reaches_calls_nothing_and_stays_a_number_for_json(dtype: type) -> None:
    scores, positive = np.array([0.2, 0.7, 0.7], dtype=dtype), np.array([True, True, False])
    threshold = json.loads(json.dumps(choose_threshold(scores, positive, rule="specificity", target=0.8), allow_nan=False))
    assert not (scores >= threshold).any()
    assert threshold == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "positive", "rule", "target", "message"),
    [
        ([0.1, np.nan], [True, False], "youden", None, "1 of 2 scores"),
        ([0.1, 0.2], [True, True], "youden", None, "2 of 2 have it"),
        ([0.1, 0.2], [False, False], "youden", None, "0 of 2 have it"),
        ([], [], "youden", None, "0 of 0 have it"),
        ([0.1, 0.2], [True, False], "accuracy", 0.9, "accuracy: no such rule"),
        ([0.1, 0.2], [True, False], "specificity", None, "needs a target"),
        ([0.1, 0.2], [True, False], "sensitivity", 90, "needs a target"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(scores, positive, rule: str, target: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_threshold(np.array(scores), np.array(positive, dtype=bool), rule=rule, target=target)


def test_calls_are_counted_as_sklearn_counts_them_each_with_the_interval_of_its_own_films() -> None:
    rng = np.random.default_rng(0)
    positive, patients = rng.random(300) < 0.3, rng.integers(80, size=300)
    called = np.where(positive, rng.random(300) < 0.8, rng.random(300) < 0.1)
    (tn, fp), (fn, tp) = confusion_matrix(positive, called)
    found = diagnostic(called, positive, patients)
    values = {name: estimate.value for name, estimate in found.items()}
    assert values == pytest.approx({"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "ppv": tp / (tp + fp), "npv": tn / (tn + fn)}, abs=1e-12)

    right = called == positive
    films = {"sensitivity": positive, "specificity": ~positive, "ppv": called, "npv": ~called}
    assert found == {name: clustered_wilson(right[own], patients[own]) for name, own in films.items()}


def test_a_proportion_of_no_films_is_undefined_and_the_others_stand() -> None:
    found = diagnostic(np.array([False, False]), np.array([False, True]), np.arange(2))
    assert np.isnan(found["ppv"]).all()
    assert [found[name].value for name in ("sensitivity", "specificity", "npv")] == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("prevalence", [0.01, 0.3, 0.9])
def test_predictive_values_and_their_intervals_solve_the_equations_of_mover(prevalence: float) -> None:
    sensitivity, specificity = Estimate(0.8, 0.66, 0.89), Estimate(0.93, 0.9, 0.955)
    ppv, npv = predictive_values(sensitivity, specificity, prevalence)
    missed, false_alarms = Estimate(0.2, 0.11, 0.34), Estimate(0.07, 0.045, 0.1)
    for found, wrong, right, odds in [
        (ppv, false_alarms, sensitivity, (1 - prevalence) / prevalence),
        (npv, missed, specificity, prevalence / (1 - prevalence)),
    ]:
        lowest = brentq(lambda r, w=wrong, g=right: w.value - r * g.value - math.hypot(w.value - w.lo, r * (g.hi - g.value)), 0, 10, xtol=1e-14)
        highest = brentq(lambda r, w=wrong, g=right: w.value - r * g.value + math.hypot(w.hi - w.value, r * (g.value - g.lo)), 0, 10, xtol=1e-14)
        ratios = (wrong.value / right.value, highest, lowest)
        assert found == pytest.approx([1 / (1 + odds * ratio) for ratio in ratios], abs=1e-12)


def test_at_the_prevalence_of_the_films_predictive_values_are_the_counted_ones() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.25
    called = positive ^ (rng.random(400) < 0.15)
    counted = diagnostic(called, positive, np.arange(400))
    ppv, npv = predictive_values(counted["sensitivity"], counted["specificity"], positive.mean())
    assert (ppv.value, npv.value) == pytest.approx((counted["ppv"].value, counted["npv"].value), abs=1e-12)
    assert width(ppv) == pytest.approx(width(counted["ppv"]), rel=0.2)
    assert width(npv) == pytest.approx(width(counted["npv"]), rel=0.2)


@pytest.mark.parametrize("n_found", [0, 1, 10, 19, 20])
@pytest.mark.parametrize("n_spared", [0, 1, 25, 49, 50])
def test_up_to_the_ends_a_predictive_value_lies_in_its_interval_and_grows_with_prevalence(n_found: int, n_spared: int) -> None:
    sensitivity = clustered_wilson(np.arange(20) < n_found, np.arange(20))
    specificity = clustered_wilson(np.arange(50) < n_spared, np.arange(50))
    found = np.array([predictive_values(sensitivity, specificity, prevalence) for prevalence in (0.001, 0.05, 0.5, 0.95, 0.999)])
    never_called = [n_found == 0 and n_spared == 50, n_found == 20 and n_spared == 0]
    assert np.isnan(found).all(axis=(0, 2)).tolist() == never_called
    for call, sign in ((0, 1), (1, -1)):
        if not never_called[call]:
            value, lo, hi = found[:, call].T
            assert ((lo >= 0) & (lo <= value) & (value <= hi) & (hi <= 1) & (lo < hi)).all()
            assert (sign * np.diff(found[:, call], axis=0) >= 0).all()


def test_predictive_values_follow_sensitivity_and_specificity() -> None:
    wider, narrow = Estimate(0.8, 0.6, 0.95), Estimate(0.8, 0.75, 0.85)
    assert all(width(w) > width(n) for w, n in zip(predictive_values(wider, wider, 0.2), predictive_values(narrow, narrow, 0.2), strict=True))
    better = Estimate(0.9, 0.85, 0.95)
    for changed in (predictive_values(better, narrow, 0.2), predictive_values(narrow, better, 0.2)):
        for higher, lower in zip(changed, predictive_values(narrow, narrow, 0.2), strict=True):
            assert (np.array(higher) > np.array(lower)).all()


@pytest.mark.parametrize("sensitivity", [0.99, 0.7, 1.0])
@pytest.mark.parametrize("specificity", [0.88, 0.93, 1.0])
def test_what_is_known_exactly_has_exact_predictive_values_and_rounding_does_not_turn_the_ends_round(sensitivity: float, specificity: float) -> None:
    for value, lo, hi in predictive_values(Estimate(*[sensitivity] * 3), Estimate(*[specificity] * 3), 0.3):
        assert lo <= value <= hi
        assert (lo, hi) == pytest.approx((value, value), abs=1e-6)


def test_undefined_stays_undefined_and_a_prevalence_of_nothing_is_refused() -> None:
    undefined = Estimate(np.nan, np.nan, np.nan)
    assert np.isnan(predictive_values(undefined, Estimate(0.9, 0.8, 0.95), 0.1)).all()
    for prevalence in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="prevalence"):
            predictive_values(Estimate(0.9, 0.8, 0.95), Estimate(0.9, 0.8, 0.95), prevalence)
