"""Mirrors stats/calibration.py. The oracles solve the score equations with scipy, or write the sandwich out patient by patient."""

import numpy as np
import pytest
from scipy.optimize import root
from scipy.special import expit, logit, ndtri
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from cxr.stats.calibration import brier, calibration, calibration_error, platt, prior_shift, recalibrate, reliability


def cohort(seed: int = 0, n: int = 500, n_patients: int = 150, intercept: float = -0.4, slope: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a model that is off by a known intercept and slope, outcome, patients."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, size=n)
    return logits, rng.random(n) < expit(intercept + slope * logits), rng.integers(n_patients, size=n) * 7 + 3


def solve(scores_of, n: int) -> np.ndarray:
    solution = root(scores_of, np.zeros(n), tol=1e-14)
    assert np.abs(solution.fun).max() < 1e-9
    return solution.x


def test_recalibration_solves_the_score_equations() -> None:
    logits, positive, _ = cohort()

    def scores_of(coefficients: np.ndarray) -> list[float]:
        residual = positive - expit(coefficients[0] + coefficients[1] * logits)
        return [residual.sum(), (residual * logits).sum()]

    np.testing.assert_allclose(recalibrate(logits, positive), solve(scores_of, 2), rtol=0, atol=1e-10)
    sklearn = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(logits[:, None], positive)
    np.testing.assert_allclose(recalibrate(logits, positive), [sklearn.intercept_[0], sklearn.coef_[0, 0]], rtol=0, atol=1e-5)


def test_recalibration_finds_what_was_put_in() -> None:
    intercept, slope = recalibrate(*cohort(n=100_000, intercept=0.3, slope=1.4)[:2])
    assert intercept == pytest.approx(0.3, abs=0.05)
    assert slope == pytest.approx(1.4, abs=0.05)


def test_recalibration_does_not_lose_its_way_where_a_full_step_would() -> None:
    logits = np.r_[np.linspace(-60, 60, 200), 55.0, -55.0]
    positive = np.r_[logits[:200] > 0, False, True]
    intercept, slope = recalibrate(logits, positive)
    residual = positive - expit(intercept + slope * logits)
    assert abs(residual.sum()) + abs(residual @ logits) < 1e-9


@pytest.mark.parametrize(
    ("logits", "positive"),
    [([0, 1, 2, 3], [0, 0, 1, 1]), ([0, 1, 1, 2], [0, 0, 1, 1]), ([0, 1, 2, 3], [1, 1, 0, 0]), ([1, 1, 1, 1], [0, 1, 0, 1]), ([0, 1, 2, 3], [0, 0, 0, 0])],
    ids=["separated", "separated but for a tie", "separated the wrong way", "one logit", "one class"],
)
def test_recalibration_without_a_likeliest_slope_is_undefined(logits: list[int], positive: list[int]) -> None:
    assert np.isnan(recalibrate(np.array(logits, dtype=float), np.array(positive, dtype=bool))).all()


def sandwich(design: np.ndarray, residual: np.ndarray, weight: np.ndarray, patients: np.ndarray) -> np.ndarray:
    bread, meat = np.zeros((2, 2))[: design.shape[1], : design.shape[1]], 0.0
    for row, w in zip(design, weight, strict=True):
        bread = bread + w * np.outer(row, row)
    for patient in np.unique(patients):
        score = sum(row * r for row, r in zip(design[patients == patient], residual[patients == patient], strict=True))
        meat = meat + np.outer(score, score)
    n = np.unique(patients).size
    return np.sqrt(np.diag(np.linalg.inv(bread) @ (meat * n / (n - 1)) @ np.linalg.inv(bread)))


def test_intercept_and_slope_carry_the_sandwich_written_out_patient_by_patient() -> None:
    logits, positive, patients = cohort()
    result = calibration(logits, positive, patients, level=0.9)
    quantile = t.ppf(0.95, min(np.unique(patients[positive]).size, np.unique(patients[~positive]).size) - 1)

    shift = solve(lambda b: [(positive - expit(logits + b[0])).sum()], 1)[0]
    p = expit(logits + shift)
    spread = quantile * sandwich(np.ones((500, 1)), positive - p, p * (1 - p), patients)[0]
    np.testing.assert_allclose(result.intercept, [shift, shift - spread, shift + spread], rtol=0, atol=1e-10)

    intercept, slope = recalibrate(logits, positive)
    p = expit(intercept + slope * logits)
    spread = quantile * sandwich(np.stack([np.ones(500), logits], axis=1), positive - p, p * (1 - p), patients)[1]
    np.testing.assert_allclose(result.slope, [slope, slope - spread, slope + spread], rtol=0, atol=1e-10)


def test_brier_equals_sklearn_with_the_variance_written_out_patient_by_patient() -> None:
    logits, positive, patients = cohort()
    p = expit(logits)
    value = brier_score_loss(positive, p)
    excess = [sum((p[i] - positive[i]) ** 2 - value for i in np.flatnonzero(patients == patient)) for patient in np.unique(patients)]
    deviation = (np.sum(np.square(excess)) * len(excess) / (len(excess) - 1)) ** 0.5 / 500
    spread = ndtri(0.975) * deviation / (value * (1 - value))
    np.testing.assert_allclose(brier(p, positive, patients), [value, expit(logit(value) - spread), expit(logit(value) + spread)], rtol=0, atol=1e-10)


def test_brier_at_its_ends_is_wide_rather_than_empty() -> None:
    positive = np.arange(30) < 10
    assert brier(positive.astype(float), positive, np.arange(30))[1:] == pytest.approx((0, 0.1135), abs=1e-3)
    assert brier(1.0 - positive, positive, np.arange(30))[1:] == pytest.approx((0.8865, 1), abs=1e-3)


def test_calibration_error_of_one_film_a_patient_equals_kumars_debiased_error() -> None:
    rng = np.random.default_rng(0)
    levels = np.array([0.1, 0.3, 0.5, 0.8])
    probabilities = rng.choice(levels, size=600)
    positive = rng.random(600) < probabilities + 0.1
    square = 0.0
    for level in levels:
        said = probabilities == level
        share, n = positive[said].mean(), said.sum()
        square += n / 600 * ((level - share) ** 2 - share * (1 - share) / (n - 1))
    # more bins than levels: films of one probability stay together
    assert calibration_error(probabilities, positive, np.arange(600), n_bins=50).value == pytest.approx(square**0.5, abs=1e-10)


def test_calibration_error_equals_the_products_of_residuals_of_different_patients() -> None:
    """Debiasing by patient leaves no film compared with its own patient, which shows where every patient has two films in one bin."""
    logits, positive, _ = cohort(n=200)
    p, patients = np.repeat(expit(logits), 2), np.repeat(np.arange(200), 2)
    positive = np.repeat(positive, 2) ^ (np.random.default_rng(1).random(400) < 0.1)
    square = 0.0
    for films in np.array_split(np.argsort(p, kind="stable"), 5):
        products = [(p[i] - positive[i]) * (p[j] - positive[j]) for i in films for j in films if patients[i] != patients[j]]
        square += len(films) / 400 * np.mean(products)
    assert square > 0
    assert calibration_error(p, positive, patients, n_bins=5).value == pytest.approx(square**0.5, abs=1e-10)


def test_calibration_error_of_a_calibrated_model_is_near_zero_where_the_plain_one_is_not() -> None:
    squares, plain, covered = [], [], 0
    for seed in range(200):
        logits, positive, patients = cohort(seed, intercept=0, slope=1)
        estimate = calibration_error(expit(logits), positive, patients)
        squares.append(estimate.value**2)
        plain.append(sum(b.n_films / 500 * (b.mean_probability - b.observed.value) ** 2 for b in reliability(expit(logits), positive, patients)))
        covered += estimate.lo == 0
    assert np.mean(plain) > 0.0025
    assert np.median(squares) < 0.0005
    assert 0.9 <= covered / 200 <= 0.99


def test_calibration_error_covers_the_error_of_a_model_that_is_too_sure_of_itself() -> None:
    """The truth is that of a cohort of a million, in the same tenths."""
    logits = -1 + 1.5 * ndtri((np.arange(1_000_000) + 0.5) / 1_000_000)
    truth = np.mean((expit(logits) - expit(-0.4 + 0.7 * logits)).reshape(10, -1).mean(axis=1) ** 2) ** 0.5
    estimates = [calibration_error(expit(logits), positive, patients) for logits, positive, patients in map(cohort, range(200))]
    assert np.mean([e.value for e in estimates]) == pytest.approx(truth, abs=0.01)
    assert 0.9 <= np.mean([e.lo <= truth <= e.hi for e in estimates]) <= 0.99


def test_a_bin_of_one_patient_is_left_out_and_without_any_other_nothing_is_defined() -> None:
    probabilities, positive = np.repeat([0.2, 0.6], 50), np.arange(100) % 10 < np.repeat([4, 6], 50)
    patients = np.where(probabilities == 0.2, 0, np.arange(100))
    alone = probabilities == 0.6
    assert calibration_error(probabilities, positive, patients) == calibration_error(probabilities[alone], positive[alone], patients[alone])
    assert np.isnan(calibration_error(probabilities, positive, np.zeros(100))).all()


def test_a_set_without_positives_still_has_an_error_of_some_width_but_no_slope() -> None:
    result = calibration(np.full(50, -3.0), np.zeros(50, dtype=bool), np.arange(50))
    assert np.isnan([*result.intercept, *result.slope]).all()
    assert result.ece.value == pytest.approx(expit(-3.0))
    assert result.ece.lo < result.ece.value < result.ece.hi


@pytest.mark.parametrize("change", ["thrice", "shuffled"])
def test_repeating_films_within_their_patient_or_shuffling_them_changes_nothing(change: str) -> None:
    columns = cohort()
    index = np.repeat(np.arange(500), 3) if change == "thrice" else np.random.default_rng(1).permutation(500)
    first, other = calibration(*columns), calibration(*(column[index] for column in columns))
    for name in ("intercept", "slope", "brier", "ece"):
        np.testing.assert_allclose(getattr(other, name), getattr(first, name), rtol=0, atol=1e-10)


def test_without_films_nothing_is_defined() -> None:
    nothing = np.array([])
    result = calibration(nothing, nothing.astype(bool), nothing)
    assert np.isnan([*result.intercept, *result.slope, *result.brier, *result.ece]).all()
    assert reliability(nothing, nothing.astype(bool), nothing) == []


@pytest.mark.parametrize("function", [recalibrate, platt, lambda logits, positive: calibration(logits, positive, np.arange(2))])
def test_a_logit_that_is_no_number_is_refused(function) -> None:
    with pytest.raises(ValueError, match="1 of 2 logits"):
        function(np.array([0.2, np.nan]), np.array([False, True]))


def test_reliability_bins_hold_equally_many_films_in_order() -> None:
    logits, positive, patients = cohort()
    p = expit(logits)
    bins = reliability(p, positive, patients)
    for ours, films in zip(bins, np.array_split(np.argsort(p), 10), strict=True):
        assert ours.n_films == 50
        assert ours.mean_probability == pytest.approx(p[films].mean(), abs=1e-12)
        assert ours.observed.value == pytest.approx(positive[films].mean(), abs=1e-12)
        assert ours.observed.lo < ours.observed.value < ours.observed.hi or ours.observed.value == 0


def test_reliability_never_parts_films_of_one_probability() -> None:
    probabilities = np.r_[np.full(70, 0.1), np.linspace(0.2, 0.9, 30)]
    bins = reliability(probabilities, probabilities > 0.5, np.arange(100))
    assert bins[0].n_films == 70
    assert sum(b.n_films for b in bins) == 100
    assert len(bins) == 4


def test_platt_solves_the_score_equations_of_its_smoothed_targets() -> None:
    logits, positive, _ = cohort()
    n_positive, n_negative = positive.sum(), (~positive).sum()
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

    def scores_of(coefficients: np.ndarray) -> list[float]:
        residual = target - expit(coefficients[0] * logits + coefficients[1])
        return [residual.sum(), (residual * logits).sum()]

    np.testing.assert_allclose(platt(logits, positive), solve(scores_of, 2), rtol=0, atol=1e-10)
    # every film once as a positive and once as a negative, weighing what its target says
    doubled = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000)
    doubled.fit(np.r_[logits, logits][:, None], np.repeat([1, 0], 500), sample_weight=np.r_[target, 1 - target])
    np.testing.assert_allclose(platt(logits, positive), [doubled.coef_[0, 0], doubled.intercept_[0]], rtol=0, atol=1e-5)


def test_platt_stays_finite_where_the_logits_separate_the_classes_and_is_undefined_for_one_class() -> None:
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    slope, _ = platt(logits, logits > 0)
    assert 0 < slope < 10
    assert np.isnan(platt(logits, logits > 5)).all()
    assert np.isnan(platt(np.zeros(4), logits > 0)).all()


def test_platt_leaves_films_calibrated_that_it_has_not_seen() -> None:
    logits, positive, _ = cohort(n=20_000)
    slope, intercept = platt(logits, positive)
    unseen, outcome, _ = cohort(1, n=20_000)
    assert recalibrate(slope * unseen + intercept, outcome) == pytest.approx((0, 1), abs=0.08)


def test_prior_shift_is_bayes_rule_with_another_prevalence() -> None:
    posterior = np.array([0.02, 0.3, 0.9])
    likelihood_ratio = posterior / (1 - posterior) * 0.8 / 0.2
    elsewhere = 0.05 * likelihood_ratio / (0.05 * likelihood_ratio + 0.95)
    np.testing.assert_allclose(expit(prior_shift(logit(posterior), trained_prevalence=0.2, target_prevalence=0.05)), elsewhere, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, 30.0])
def test_prior_shift_refuses_a_prevalence_that_is_none(prevalence: float) -> None:
    with pytest.raises(ValueError, match="strictly between"):
        prior_shift(np.zeros(1), trained_prevalence=0.1, target_prevalence=prevalence)
