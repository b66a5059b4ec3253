"""Mirrors stats/delong.py. The oracles count every pair of films in loops and write the papers' formulas out."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from cxr.stats.delong import Comparison, clustered_delong, delong, holm


def cohort(seed: int = 0, n_patients: int = 30, films: int = 4, *, n_levels: int = 10, one_finding_each: bool = False) -> tuple[np.ndarray, ...]:
    """Two equally good scores a and b with ties, the finding, and patients whose films resemble each other."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients) * 3 + 5, films)
    with_finding = rng.random(n_patients) < 0.4
    positive = np.repeat(with_finding, films) if one_finding_each else rng.random(patients.size) < 0.4
    a, b = (np.repeat(rng.normal(size=n_patients), films) + 0.5 * rng.normal(size=patients.size) + positive for _ in range(2))
    return np.round(a * n_levels), np.round(b * n_levels), positive, patients


def won(positive_score: float, negative_score: float) -> float:
    return float(positive_score > negative_score) + float(positive_score == negative_score) / 2


def by_loops(scores: np.ndarray, positive: np.ndarray) -> tuple[list[float], list[float]]:
    """The structural components: V10 of every film with the finding, V01 of every film without."""
    present, absent = scores[positive], scores[~positive]
    return [float(np.mean([won(x, y) for y in absent])) for x in present], [float(np.mean([won(x, y) for x in present])) for y in absent]


def variance_of(compared: Comparison) -> float:
    _, lo, hi = compared.difference
    return ((hi - lo) / 2 / norm.ppf(0.975)) ** 2


@pytest.mark.parametrize("n_levels", [1, 10, 1_000_000], ids=["heavy ties", "some ties", "no ties"])
def test_plain_delong_equals_the_covariance_of_components_counted_pair_by_pair(n_levels: int) -> None:
    a, b, positive, _ = cohort(n_levels=n_levels)
    (v10_a, v01_a), (v10_b, v01_b) = by_loops(a, positive), by_loops(b, positive)
    covariance = np.cov(v10_a, v10_b) / len(v10_a) + np.cov(v01_a, v01_b) / len(v01_a)
    variance = np.array([1, -1]) @ covariance @ np.array([1, -1])

    compared = delong(a, b, positive)
    assert (compared.auroc_a, compared.auroc_b) == pytest.approx((roc_auc_score(positive, a), roc_auc_score(positive, b)), abs=1e-12)
    assert variance_of(compared) == pytest.approx(variance, abs=1e-12)
    assert compared.difference.value == pytest.approx(np.mean(v10_a) - np.mean(v10_b), abs=1e-12)
    assert compared.p == pytest.approx(2 * norm.sf(abs(compared.difference.value) / variance**0.5), abs=1e-12)


@pytest.mark.parametrize("one_finding_each", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_clustered_delong_equals_the_formulas_of_obuchowski_written_out(seed: int, one_finding_each: bool) -> None:
    a, b, positive, patients = cohort(seed, one_finding_each=one_finding_each)
    kept = np.random.default_rng(seed).random(patients.size) < 0.7  # patients of unequal size
    a, b, positive, patients = a[kept], b[kept], positive[kept], patients[kept]
    m, n = int(positive.sum()), int((~positive).sum())

    sums: dict[str, list[tuple[float, float]]] = {}
    for name, scores in (("a", a), ("b", b)):
        v10, v01 = by_loops(scores, positive)
        area, sums[name] = float(np.mean(v10)), []
        for patient in np.unique(patients):
            own10 = [v for v, owner in zip(v10, patients[positive], strict=True) if owner == patient]
            own01 = [v for v, owner in zip(v01, patients[~positive], strict=True) if owner == patient]
            sums[name].append((sum(own10) - len(own10) * area, sum(own01) - len(own01) * area))
    i, i10, i01 = len(np.unique(patients)), len(np.unique(patients[positive])), len(np.unique(patients[~positive]))

    def covariance(one: str, other: str) -> float:
        pairs = list(zip(sums[one], sums[other], strict=True))
        s10 = i10 / ((i10 - 1) * m) * sum(x[0] * y[0] for x, y in pairs)
        s01 = i01 / ((i01 - 1) * n) * sum(x[1] * y[1] for x, y in pairs)
        s11, s11_other = (i / (i - 1) * sum(x[k] * y[1 - k] for x, y in pairs) for k in (0, 1))
        return s10 / m + s01 / n + s11 / (m * n) + s11_other / (m * n)

    expected = covariance("a", "a") + covariance("b", "b") - 2 * covariance("a", "b")
    compared = clustered_delong(a, b, positive, patients)
    films = [[list(patients[side]).count(patient) for patient in set(patients[side])] for side in (positive, ~positive)]
    equal = min(sum(counts) ** 2 / sum(count**2 for count in counts) for counts in films)
    reach = (compared.difference.hi - compared.difference.lo) / 2
    assert (reach / t.ppf(0.975, equal - 1)) ** 2 == pytest.approx(expected, abs=1e-12)
    assert compared.p == pytest.approx(2 * t.sf(abs(compared.difference.value) / expected**0.5, equal - 1), abs=1e-12)


def test_the_other_way_round_only_the_sign_changes() -> None:
    a, b, positive, patients = cohort()
    ab, ba = clustered_delong(a, b, positive, patients), clustered_delong(b, a, positive, patients)
    assert ba.p == pytest.approx(ab.p, abs=1e-12)
    assert ba.difference == pytest.approx((-ab.difference.value, -ab.difference.hi, -ab.difference.lo), abs=1e-12)


def test_neither_the_order_of_films_nor_the_names_of_patients_matter() -> None:
    a, b, positive, patients = cohort()
    shuffled = np.random.default_rng(1).permutation(a.size)
    renamed = np.array([f"patient {1000 - patient}" for patient in patients])
    again = clustered_delong(a[shuffled], b[shuffled], positive[shuffled], renamed[shuffled])
    assert again.difference == pytest.approx(clustered_delong(a, b, positive, patients).difference, abs=1e-12)


def test_films_that_repeat_their_patient_change_nothing_unless_they_pass_for_new_ones() -> None:
    a, b, positive, patients = cohort()
    once = clustered_delong(a, b, positive, patients)
    fivefold = [np.repeat(column, 5) for column in (a, b, positive)]
    again = clustered_delong(*fivefold, np.repeat(patients, 5))
    assert again.difference == pytest.approx(once.difference, abs=1e-12)
    assert again.p == pytest.approx(once.p, abs=1e-12)
    assert variance_of(delong(*fivefold)) < 0.25 * variance_of(delong(a, b, positive))


@pytest.mark.parametrize("transform", [lambda scores: scores, lambda scores: scores**3 + 7], ids=["itself", "an increasing transform"])
def test_scores_that_rank_alike_do_not_differ_at_all(transform) -> None:
    a, _, positive, patients = cohort()
    for compared in (clustered_delong(a, transform(a), positive, patients), delong(a, transform(a), positive)):
        assert compared.difference == (0.0, 0.0, 0.0)
        assert compared.p == 1.0


def test_a_difference_on_which_all_films_agree_has_no_known_variance() -> None:
    positive = np.arange(14) < 7
    compared = delong(positive * 1.0, np.zeros(14), positive)
    assert (compared.auroc_a, compared.auroc_b) == (1.0, 0.5)
    assert np.isnan([*compared.difference, compared.p]).all()


@pytest.mark.parametrize("seed", range(5))
def test_patients_who_are_copies_of_each_other_tell_nothing_of_the_variance_even_after_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = np.tile(rng.normal(size=9), 7), np.tile(rng.normal(size=9), 7)
    compared = clustered_delong(a, b, np.tile(np.arange(9) < 4, 7), np.repeat(np.arange(7), 9))
    assert compared.auroc_a != compared.auroc_b
    assert np.isnan([*compared.difference, compared.p]).all()


def test_a_class_from_one_patient_leaves_the_areas_but_no_comparison() -> None:
    a, b, _, patients = cohort()
    positive = patients == patients[0]
    compared = clustered_delong(a, b, positive, patients)
    assert compared.auroc_a == pytest.approx(roc_auc_score(positive, a), abs=1e-12)
    assert np.isnan([*compared.difference, compared.p]).all()


@pytest.mark.parametrize("positive", [False, True], ids=["no positives", "no negatives"])
def test_with_one_class_alone_everything_is_undefined(positive: bool) -> None:
    a, b, _, patients = cohort()
    compared = clustered_delong(a, b, np.full(a.size, positive), patients)
    assert np.isnan([compared.auroc_a, compared.auroc_b, *compared.difference, compared.p]).all()


def test_a_score_that_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="2 of 4 scores"):
        delong(np.array([0.2, np.nan]), np.array([np.inf, 0.1]), np.array([False, True]))


def test_equal_scores_are_told_apart_as_rarely_as_they_should_and_by_plain_delong_far_too_often() -> None:
    by_patient, by_film = 0, 0
    for seed in range(300):
        a, b, positive, patients = cohort(seed, n_patients=60, one_finding_each=True)
        by_patient += clustered_delong(a, b, positive, patients).p < 0.05
        by_film += delong(a, b, positive).p < 0.05
    assert 0.02 <= by_patient / 300 <= 0.085
    assert by_film / 300 > 0.2


def test_holm_equals_an_example_worked_by_hand() -> None:
    # sorted: 4 x 0.005 = 0.02; 3 x 0.01 = 0.03; 2 x 0.03 = 0.06; 1 x 0.04 = 0.04, raised to the 0.06 before it
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)


@pytest.mark.parametrize("k", range(1, 7))
def test_holm_is_closed_testing_with_bonferroni_on_every_subset(k: int) -> None:
    rng = np.random.default_rng(k)
    for p in (rng.random(k), rng.random(k) ** 4, rng.integers(1, 4, size=k) / 50):
        subsets = [subset for size in range(1, k + 1) for subset in combinations(range(k), size)]
        closed = [max(min(1.0, len(subset) * min(p[list(subset)])) for subset in subsets if i in subset) for i in range(k)]
        assert holm(p).tolist() == closed


def test_a_question_that_could_not_be_asked_is_left_out_of_the_family() -> None:
    adjusted = holm(np.array([0.02, np.nan, 0.5, 0.9]))
    assert np.isnan(adjusted).tolist() == [False, True, False, False]
    assert adjusted[[0, 2, 3]].tolist() == holm(np.array([0.02, 0.5, 0.9])).tolist()
    assert adjusted[3] == 1.0
    assert np.isnan(holm(np.full(3, np.nan))).all()
