"""Mirrors stats/ridge.py, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cxr.stats.ridge import ridge_logistic


@pytest.mark.parametrize("c", [3e-4, 0.1, 10.0])
@pytest.mark.parametrize("n", [40, 900])
def test_the_log_odds_are_scikit_learns_on_standardised_features(n: int, c: float) -> None:
    rng = np.random.default_rng(n)
    features = rng.normal(3, 5, (n, 60)) * rng.uniform(0.01, 10, 60)
    features[:, 7] = 4.0  # says nothing
    labels = features[:, :5].sum(axis=1) + rng.normal(0, 10, n) > np.quantile(features[:, :5].sum(axis=1), 0.8)
    weights, intercept = ridge_logistic(features, labels, c=c)
    scaler = StandardScaler().fit(features)
    oracle = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(scaler.transform(features), labels)
    expected = oracle.decision_function(scaler.transform(features))
    np.testing.assert_allclose(features @ weights + intercept, expected, atol=2e-3 * max(1.0, abs(expected).max()))


def test_with_hardly_any_freedom_it_says_the_prevalence() -> None:
    labels = np.arange(100) < 13
    weights, intercept = ridge_logistic(np.random.default_rng(0).normal(size=(100, 8)), labels, c=1e-9)
    assert abs(weights).max() < 1e-6
    assert intercept == pytest.approx(np.log(0.13 / 0.87), abs=1e-6)
