"""Mirrors stats/bootstrap.py. The oracle rebuilds every drawn cohort film by film and asks sklearn."""

import numpy as np
import pytest
from scipy.special import ndtri
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.stats.bootstrap import bootstrap, bootstrap_between_groups, logit_interval, patient_weights
from cxr.stats.ranking import auroc, average_precision


def cohort(seed: int = 0, n: int = 200, n_patients: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patients = rng.integers(n_patients, size=n) * 7 + 3
    return np.round(rng.normal(size=n), 1), rng.random(n) < 0.2, patients


@pytest.mark.parametrize(("statistic", "oracle"), [(auroc, roc_auc_score), (average_precision, average_precision_score)])
def test_every_draw_equals_sklearn_on_the_drawn_films(statistic, oracle) -> None:
    scores, positive, patients = cohort()
    result = bootstrap(statistic, scores, positive, patients, n_draws=60, seed=5)
    weights = np.concatenate(list(patient_weights(patients, 60, 5)))
    for draw, weight in zip(result.draws, weights, strict=True):
        films = np.repeat(np.arange(len(scores)), weight.astype(int))
        assert draw == pytest.approx(oracle(positive[films], scores[films]), abs=1e-12)
    assert result.value == pytest.approx(oracle(positive, scores), abs=1e-12)


def test_a_draw_takes_whole_patients_as_many_as_there_are() -> None:
    _, _, patients = cohort()
    for weights in patient_weights(patients, 30, seed=1):
        for row in weights:
            per_patient = {patient: set(row[patients == patient]) for patient in np.unique(patients)}
            assert all(len(counts) == 1 for counts in per_patient.values())
            assert sum(counts.pop() for counts in per_patient.values()) == len(per_patient)


def test_draws_are_those_of_the_seed_however_they_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, positive, patients = cohort()
    first = bootstrap(auroc, scores, positive, patients, n_draws=100, seed=2)
    again = bootstrap(auroc, scores, positive, patients, n_draws=100, seed=2)
    monkeypatch.setattr("cxr.stats.bootstrap.CHUNK", 2_000)
    chunked = bootstrap(auroc, scores, positive, patients, n_draws=100, seed=2)
    other = bootstrap(auroc, scores, positive, patients, n_draws=100, seed=3)
    assert (first.draws == again.draws).all()
    assert (first.draws == chunked.draws).all()
    assert (first.draws != other.draws).any()


def test_draws_of_one_class_are_drawn_anew_and_counted() -> None:
    scores, _, patients = cohort()
    positive = patients == patients[0]  # one positive patient: absent from about 37 % of draws
    result = bootstrap(auroc, scores, positive, patients, n_draws=500, seed=0)
    assert np.isfinite(result.draws).all()
    assert 0.3 < result.n_redrawn / 500 / (1 + 0.37 / 0.63) < 0.45


def test_an_undefined_statistic_stays_undefined() -> None:
    scores, positive, patients = cohort()
    result = bootstrap(auroc, scores, np.zeros_like(positive), patients, n_draws=100, seed=0)
    assert np.isnan([result.value, result.lo, result.hi]).all()


def test_films_that_repeat_their_patient_widen_the_interval_as_they_must() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=200), rng.random(200) < 0.3
    once = bootstrap(auroc, scores, positive, np.arange(200), n_draws=500, seed=0)
    # every film five times over: no new information, so the interval by patient must not shrink
    fivefold = bootstrap(auroc, np.repeat(scores, 5), np.repeat(positive, 5), np.repeat(np.arange(200), 5), n_draws=500, seed=0)
    as_if_independent = bootstrap(auroc, np.repeat(scores, 5), np.repeat(positive, 5), np.arange(1000), n_draws=500, seed=0)
    assert fivefold.hi - fivefold.lo == pytest.approx(once.hi - once.lo, rel=0.1)
    assert as_if_independent.hi - as_if_independent.lo < 0.6 * (once.hi - once.lo)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_at_the_ends_the_interval_is_wide_rather_than_empty(value: float) -> None:
    lo, hi = logit_interval(value, np.full(100, value), 25)
    assert value in (lo, hi)
    assert 0.1 < hi - lo < 0.2


def test_the_interval_covers_a_known_area_as_often_as_it_says() -> None:
    """400 cohorts of 80 patients with two films each, whose scores share a patient effect; the true AUROC is 0.85."""
    from scipy.stats import norm

    rng, covered = np.random.default_rng(0), 0
    shift = np.sqrt(2) * norm.ppf(0.85)
    patients = np.repeat(np.arange(80), 2)
    positive = patients < 30
    for _ in range(400):
        scores = np.sqrt(0.5) * (rng.normal(size=80)[patients] + rng.normal(size=160)) + shift * positive
        result = bootstrap(auroc, scores, positive, patients, n_draws=200, seed=int(rng.integers(2**31)))
        covered += result.lo <= 0.85 <= result.hi
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("areas", [(0.85, 0.80), (0.95, 0.95)], ids=["apart", "alike, near the end"])
def test_the_difference_of_two_groups_is_covered_as_often_as_it_says(areas: tuple[float, float]) -> None:
    """300 cohorts of 110 patients, of whom 40 have a film in either group."""
    rng, covered = np.random.default_rng(0), 0
    patients = np.concatenate([np.arange(75), np.arange(35, 110)])
    one = np.arange(150) < 75
    positive = patients % 3 == 0
    shift = np.sqrt(2) * ndtri(np.where(one, *areas))
    for _ in range(300):
        scores = np.sqrt(0.5) * (rng.normal(size=110)[patients] + rng.normal(size=150)) + shift * positive
        sides = [lambda weights, group=group, scores=scores: auroc(scores[group], positive[group], weights[:, group]) for group in (one, ~one)]
        result = bootstrap_between_groups(*sides, patients, n_deciding=(25, 25), n_draws=200, seed=int(rng.integers(2**31)))
        covered += result.lo <= areas[0] - areas[1] <= result.hi
    assert 0.92 <= covered / 300 <= 0.985
