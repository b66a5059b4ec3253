"""Mirrors stats/ranking.py. The oracle is sklearn; the edge cases are stated, not discovered."""

import numpy as np
import pytest
from sklearn import metrics

from cxr.stats.ranking import auroc, auroc_within, average_precision, partial_auroc, precision_recall_curve, roc_curve, sensitivity_at

TIES = pytest.mark.parametrize("n_levels", [2, 5, 1000], ids=["heavy ties", "some ties", "few ties"])


def cohort(n_levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(n_levels, size=300) / n_levels, rng.random(300) < 0.2, rng.poisson(1.0, size=(20, 300)).astype(float)


@TIES
@pytest.mark.parametrize(("ours", "oracle"), [(auroc, metrics.roc_auc_score), (average_precision, metrics.average_precision_score)])
def test_areas_equal_sklearn_under_patient_weights(ours, oracle, n_levels: int) -> None:
    scores, positive, weights = cohort(n_levels)
    np.testing.assert_allclose(ours(scores, positive, weights), [oracle(positive, scores, sample_weight=row) for row in weights], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours(scores, positive), oracle(positive, scores), rtol=0, atol=1e-12)


@TIES
def test_auroc_equals_counting_every_pair(n_levels: int) -> None:
    scores, positive, _ = cohort(n_levels)
    pairs = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    assert auroc(scores, positive)[0] == pytest.approx(np.mean(pairs), abs=1e-12)


@TIES
def test_curves_equal_sklearn(n_levels: int) -> None:
    scores, positive, _ = cohort(n_levels)
    fpr, tpr, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(scores, positive), (fpr, tpr), rtol=0, atol=1e-12)
    precision, recall, _ = metrics.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(precision_recall_curve(scores, positive), (recall[-2::-1], precision[-2::-1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("statistic", [auroc, average_precision])
@pytest.mark.parametrize("positive", [False, True], ids=["no positives", "no negatives"])
def test_with_one_class_alone_a_statistic_is_undefined_not_zero_and_not_a_half(statistic, positive: bool) -> None:
    assert np.isnan(statistic(np.array([0.2, 0.7]), np.array([positive, positive]))).all()


@pytest.mark.parametrize("statistic", [auroc, average_precision])
def test_a_draw_in_which_one_class_weighs_nothing_is_undefined(statistic) -> None:
    weights = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.0, 1.0]])
    drawn = statistic(np.array([0.1, 0.4, 0.8]), np.array([False, False, True]), weights)
    assert np.isnan(drawn).tolist() == [True, True, False]


@pytest.mark.parametrize("statistic", [auroc, average_precision])
def test_a_score_that_cannot_be_ranked_is_refused(statistic) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores"):
        statistic(np.array([0.2, np.nan]), np.array([False, True]))


@TIES
def test_area_within_strata_equals_counting_every_pair_of_one_stratum(n_levels: int) -> None:
    scores, positive, weights = cohort(n_levels)
    strata = np.random.default_rng(1).choice(["AP", "PA", "lateral"], size=300)
    won, pairs = np.zeros(20), np.zeros(20)
    for p in np.flatnonzero(positive):
        for n in np.flatnonzero(~positive & (strata == strata[p])):
            won += weights[:, p] * weights[:, n] * ((scores[p] > scores[n]) + (scores[p] == scores[n]) / 2)
            pairs += weights[:, p] * weights[:, n]
    np.testing.assert_allclose(auroc_within(scores, positive, weights, strata), won / pairs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(auroc_within(scores, positive, weights, np.zeros(300)), auroc(scores, positive, weights), rtol=0, atol=1e-12)


def test_area_within_strata_ignores_what_the_stratum_alone_tells() -> None:
    rng = np.random.default_rng(0)
    view = rng.random(4000) < 0.5
    positive = rng.random(4000) < np.where(view, 0.4, 0.1)
    scores = rng.normal(size=4000) + 5 * view
    assert auroc(scores, positive)[0] > 0.65
    assert auroc_within(scores, positive, None, view)[0] == pytest.approx(0.5, abs=0.03)


def test_area_within_strata_that_never_hold_both_classes_is_undefined() -> None:
    positive = np.array([True, True, False])
    assert np.isnan(auroc_within(np.array([0.2, 0.7, 0.1]), positive, None, positive)).all()


def sklearn_sensitivity(scores: np.ndarray, positive: np.ndarray, rate: float, weight: np.ndarray) -> float:
    fpr, tpr, _ = metrics.roc_curve(positive, scores, sample_weight=weight, drop_intermediate=False)
    rise = tpr[np.abs(fpr - rate) < 1e-9]
    return ((rise.min() if 0 < rate < 1 else rise.max()) + rise.max()) / 2 if rise.size else np.interp(rate, fpr, tpr)


@TIES
def test_sensitivity_on_a_grid_equals_sklearns_curve_in_the_middle_of_a_rise_and_on_top_at_the_ends(n_levels: int) -> None:
    scores, positive, weights = cohort(n_levels)
    grid = np.linspace(0, 1, 21)
    oracle = [[sklearn_sensitivity(scores, positive, rate, row) for rate in grid] for row in weights]
    np.testing.assert_allclose(sensitivity_at(scores, positive, grid, weights), oracle, rtol=0, atol=1e-10)
    assert sensitivity_at(scores, positive, grid).shape == (1, 21)


@TIES
def test_sensitivity_at_one_rate_a_draw_equals_sklearns_curve_also_where_the_rate_is_a_corner(n_levels: int) -> None:
    scores, positive, weights = cohort(n_levels)
    # weights that do not sum exactly, and rates that are the draw's own, summed in another order
    weights = weights / 7
    flagged = scores >= np.quantile(scores, 0.9)
    rates = (weights[:, ::-1] @ (flagged & ~positive)[::-1]) / (weights @ ~positive)
    oracle = [sklearn_sensitivity(scores, positive, rate, row) for rate, row in zip(rates, weights, strict=True)]
    np.testing.assert_allclose(sensitivity_at(scores, positive, rates[:, None], weights)[:, 0], oracle, rtol=0, atol=1e-10)


def test_sensitivity_is_undefined_where_the_class_or_the_rate_is() -> None:
    scores, positive = np.array([0.1, 0.4, 0.8]), np.array([False, False, True])
    weights = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    rates = np.array([[0.5], [0.5], [0.5], [np.nan]])
    assert np.isnan(sensitivity_at(scores, positive, rates, weights)).ravel().tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="outside"):
        sensitivity_at(scores, positive, np.array([1.2]))


@TIES
def test_partial_area_from_zero_equals_sklearn_under_patient_weights(n_levels: int) -> None:
    scores, positive, weights = cohort(n_levels)
    for hi in (0.07, 0.3, 1.0):
        oracle = [metrics.roc_auc_score(positive, scores, max_fpr=hi, sample_weight=row) for row in weights]
        np.testing.assert_allclose(partial_auroc(scores, positive, 0.0, hi, weights), oracle, rtol=0, atol=1e-10)


@TIES
def test_partial_area_between_two_rates_equals_the_trapezoids_under_the_curve(n_levels: int) -> None:
    scores, positive, weights = cohort(n_levels)
    lo, hi = 0.1, 0.35
    for ours, row in zip(partial_auroc(scores, positive, lo, hi, weights), weights, strict=True):
        fpr, tpr, _ = metrics.roc_curve(positive, scores, sample_weight=row, drop_intermediate=False)
        inside = (fpr >= lo) & (fpr <= hi)
        area = np.trapezoid(np.r_[np.interp(lo, fpr, tpr), tpr[inside], np.interp(hi, fpr, tpr)], np.r_[lo, fpr[inside], hi])
        assert ours == pytest.approx((1 + (area - (hi**2 - lo**2) / 2) / (hi - lo - (hi**2 - lo**2) / 2)) / 2, abs=1e-10)


def test_partial_areas_add_up_to_the_whole_and_want_their_rates_in_order() -> None:
    scores, positive, weights = cohort(1000)
    parts = [(lo, hi, (hi**2 - lo**2) / 2) for lo, hi in [(0, 0.2), (0.2, 0.5), (0.5, 1)]]
    areas = [chance + (2 * partial_auroc(scores, positive, lo, hi, weights) - 1) * (hi - lo - chance) for lo, hi, chance in parts]
    np.testing.assert_allclose(sum(areas), auroc(scores, positive, weights), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"got 0\.5 and 0\.2"):
        partial_auroc(scores, positive, 0.5, 0.2)


@pytest.mark.parametrize("positive", [False, True], ids=["no positives", "no negatives"])
def test_with_one_class_alone_a_partial_area_is_undefined(positive: bool) -> None:
    assert np.isnan(partial_auroc(np.array([0.2, 0.7]), np.array([positive, positive]), 0.0, 0.5)).all()


@pytest.mark.parametrize(
    "scores",
    [
        np.full(400, 0.25),
        np.round(np.random.default_rng(1).normal(size=400), 1),
        np.append(np.random.default_rng(2).normal(size=399), 1e30),
        np.append(np.random.default_rng(3).normal(size=398), [-1.7e308, 1.7e308]),
        np.random.default_rng(4).integers(0, 3, 400) * 5e-324,
        np.random.default_rng(5).normal(size=400).astype(np.float32),
    ],
    ids=["all tied", "many ties", "an outlier", "a range that overflows", "a range that vanishes", "single precision"],
)
def test_counting_by_ranges_of_scores_equals_comparing_every_pair(scores: np.ndarray) -> None:
    positive = np.random.default_rng(6).random(400) < 0.3
    present, absent = scores[positive][:, None], scores[~positive]
    assert auroc(scores, positive)[0] == ((present > absent).sum() + 0.5 * (present == absent).sum()) / (present.size * absent.size)
