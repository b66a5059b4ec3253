"""Mirrors stats/ranking.py. The oracle is sklearn; the edge cases are stated, not discovered."""

import numpy as np
import pytest
from sklearn import metrics

from cxr.stats.ranking import auroc, average_precision, precision_recall_curve, roc_curve

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
