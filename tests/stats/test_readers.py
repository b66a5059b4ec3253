"""Mirrors stats/readers.py. The oracles are sklearn and loops over films; coverage is counted in cohorts whose truth is known."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics

from cxr.stats.readers import cohens_kappa, kappa_with_interval, leave_one_out, majority, reader_difference

SIZES = {"n_draws": 300, "seed": 4}


def cohort(seed: int = 0, n: int = 400, n_patients: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, reference, a reader's yes and no, patients."""
    rng = np.random.default_rng(seed)
    patients, positive = rng.integers(n_patients, size=n) * 7 + 3, rng.random(n) < 0.25
    return np.round(rng.normal(size=n) + 1.5 * positive, 1), positive, rng.normal(size=n) + positive > 1, patients


def curve_at(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """The curve's height, in the middle where it rises straight up."""
    rise = y[np.abs(x - at) < 1e-9]
    return (rise.min() + rise.max()) / 2 if rise.size else np.interp(at, x, y)


def test_both_differences_equal_reading_sklearns_curve_at_the_readers_rates() -> None:
    scores, positive, said, patients = cohort()
    result = reader_difference(scores, positive, said, patients, **SIZES)
    (true_negative, false_positive), (false_negative, true_positive) = metrics.confusion_matrix(positive, said)
    sensitivity, specificity = true_positive / (true_positive + false_negative), true_negative / (true_negative + false_positive)
    fpr, tpr, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    assert result.reader_sensitivity == pytest.approx(sensitivity, abs=1e-10)
    assert result.reader_specificity == pytest.approx(specificity, abs=1e-10)
    assert result.model_sensitivity == pytest.approx(curve_at(fpr, tpr, 1 - specificity), abs=1e-10)
    assert result.difference.value == pytest.approx(result.model_sensitivity - sensitivity, abs=1e-10)
    assert result.reverse.value == pytest.approx(1 - curve_at(tpr, fpr, sensitivity) - specificity, abs=1e-10)


def test_a_model_that_says_what_the_reader_says_does_not_differ_from_the_reader() -> None:
    _, positive, said, patients = cohort()
    result = reader_difference(said.astype(float), positive, said, patients, **SIZES)
    # a score of two values has one corner, and the reader stands on it
    assert result.difference.value == pytest.approx(0, abs=1e-12)
    assert result.reverse.value == pytest.approx(0, abs=1e-12)
    assert result.p == 1.0


def test_the_interval_leaves_out_zero_exactly_where_p_says_so() -> None:
    for shift in np.linspace(0, 2, 9):
        scores, positive, said, patients = cohort()
        result = reader_difference(scores + shift * positive, positive, said, patients, **SIZES)
        assert (result.difference.lo > 0 or result.difference.hi < 0) == (result.p <= 0.05)


@pytest.mark.parametrize("positive", [False, True], ids=["no positives", "no negatives"])
def test_with_one_class_alone_nothing_is_defined(positive: bool) -> None:
    scores, _, said, patients = cohort()
    result = reader_difference(scores, np.full(400, positive), said, patients, **SIZES)
    numbers = [result.reader_sensitivity, result.reader_specificity, result.model_sensitivity, result.p, *result.difference, *result.reverse]
    assert np.isnan(numbers).all()


def test_the_same_seed_gives_the_same_result_however_the_rows_lie_and_the_draws_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = cohort()
    first = reader_difference(*columns, **SIZES)
    order = np.random.default_rng(1).permutation(400)
    shuffled = reader_difference(*(column[order] for column in columns), **SIZES)
    monkeypatch.setattr("cxr.stats.bootstrap.CHUNK", 5_000)
    chunked = reader_difference(*columns, **SIZES)
    for other in (shuffled, chunked):
        np.testing.assert_allclose([*other.difference, other.p, *other.reverse], [*first.difference, first.p, *first.reverse], rtol=0, atol=1e-10)
    assert reader_difference(*columns, n_draws=300, seed=5).difference != first.difference


def test_films_repeated_within_their_patient_tell_nothing_new() -> None:
    columns = cohort()
    once, thrice = (reader_difference(*(np.repeat(column, times) for column in columns), **SIZES) for times in (1, 3))
    np.testing.assert_allclose([*thrice.difference, thrice.p, *thrice.reverse], [*once.difference, once.p, *once.reverse], rtol=0, atol=1e-10)


def test_perfection_on_few_patients_is_not_certainty() -> None:
    positive, patients = np.arange(100) < 4, np.arange(100)
    perfect = reader_difference(positive.astype(float), positive, positive, patients, **SIZES)
    assert perfect.difference.value == 0
    assert perfect.difference.hi - perfect.difference.lo > 0.3
    blind = reader_difference(positive.astype(float), positive, np.zeros(100, dtype=bool), patients, **SIZES)
    assert blind.difference.value == 1
    assert -0.5 < blind.difference.lo < 0.5  # four patients


@pytest.mark.parametrize("specificity", [0.8, 0.97])
def test_the_interval_covers_a_known_difference_and_p_errs_as_often_as_it_says(specificity: float) -> None:
    """150 cohorts of 60 positive and 240 negative patients with two films each. Model and reader see the same films and are equally good."""
    rng, n_cohorts, covered, wrong = np.random.default_rng(0), 150, 0, 0
    patients = np.repeat(np.arange(300), 2)
    positive = patients < 60
    for seed in range(n_cohorts):
        of_film = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=600)
        of_patient = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=300)[patients]
        model, reader = (np.sqrt(0.5) * (of_film + of_patient) + np.sqrt(2) * norm.ppf(0.85) * positive[:, None]).T
        result = reader_difference(model, positive, reader > norm.ppf(specificity), patients, n_draws=200, seed=seed)
        covered += result.difference.lo <= 0 <= result.difference.hi
        wrong += result.p <= 0.05
    assert 0.9 <= covered / n_cohorts <= 0.99
    assert wrong / n_cohorts <= 0.1


def test_kappa_equals_sklearn_under_patient_weights() -> None:
    rng = np.random.default_rng(0)
    a, b, weights = rng.random(300) < 0.3, rng.random(300) < 0.3, rng.poisson(1.0, size=(20, 300)).astype(float)
    a |= b & (rng.random(300) < 0.5)
    np.testing.assert_allclose(cohens_kappa(a, b, weights), [metrics.cohen_kappa_score(a, b, sample_weight=row) for row in weights], rtol=0, atol=1e-10)
    np.testing.assert_allclose(cohens_kappa(a, b), metrics.cohen_kappa_score(a, b), rtol=0, atol=1e-10)


def test_kappa_of_two_who_always_say_the_same_one_thing_is_undefined() -> None:
    never, always = np.zeros(10, dtype=bool), np.ones(10, dtype=bool)
    assert np.isnan(cohens_kappa(never, never)[0])
    assert np.isnan(kappa_with_interval(always, always, np.arange(10), **SIZES)).all()
    assert cohens_kappa(always, never)[0] == 0


def test_the_interval_of_kappa_counts_patients_and_holds_its_value() -> None:
    _, a, b, patients = cohort()
    once, thrice = (kappa_with_interval(*(np.repeat(column, times) for column in (a, b, patients)), **SIZES) for times in (1, 3))
    np.testing.assert_allclose(thrice, once, rtol=0, atol=1e-10)
    assert once.lo < once.value < once.hi
    as_if_independent = kappa_with_interval(np.repeat(a, 3), np.repeat(b, 3), np.arange(1200), **SIZES)
    assert as_if_independent.hi - as_if_independent.lo < 0.75 * (once.hi - once.lo)


def test_the_interval_of_perfect_agreement_is_wide_on_few_patients() -> None:
    votes = np.arange(12) < 4
    value, lo, hi = kappa_with_interval(votes, votes, np.arange(12), **SIZES)
    assert (value, hi) == (1, 1)
    assert 0 < lo < 0.8


def test_the_interval_of_kappa_covers_it_for_a_rare_finding_on_few_patients() -> None:
    """300 cohorts of 60 patients with two films of one vote each. Two readers say yes of 10 % of the patients, of whom they share 6 %."""
    rng, covered, n_defined = np.random.default_rng(0), 0, 0
    patients, truth = np.repeat(np.arange(60), 2), 1 - 0.08 / (2 * 0.1 * 0.9)
    for seed in range(300):
        said = rng.choice(4, p=[0.06, 0.04, 0.04, 0.86], size=60)[patients]
        value, lo, hi = kappa_with_interval(said <= 1, said % 2 == 0, patients, n_draws=200, seed=seed)
        n_defined += not np.isnan(value)
        covered += lo <= truth <= hi
    assert n_defined > 295
    assert 0.92 <= covered / n_defined <= 0.98


def test_a_majority_is_more_than_half_and_needs_every_vote() -> None:
    votes = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, np.nan]])
    np.testing.assert_array_equal(majority(votes), [0, 1, 0, np.nan])


@pytest.mark.parametrize(
    ("others", "reference"),
    [
        ([1, 1, np.nan], 1),
        ([0, 0, 0], 0),
        ([1, 1, 0], np.nan),
        ([0, 0, 0.5], np.nan),
        ([0.5, 0.5, 0.5], np.nan),
        ([1, np.nan, np.nan], np.nan),
        ([np.nan, np.nan, np.nan], np.nan),
    ],
    ids=["two agree", "three agree", "one differs", "one uncertain", "all uncertain", "one alone", "none"],
)
@pytest.mark.parametrize("own", [0, 1, np.nan])
def test_the_others_make_a_reference_only_where_two_or_more_agree_and_whatever_the_reader_said(others: list[float], reference: float, own: float) -> None:
    for r in range(4):
        np.testing.assert_array_equal(leave_one_out(np.array([np.insert(np.array(others, dtype=float), r, own)]), r), [reference])
