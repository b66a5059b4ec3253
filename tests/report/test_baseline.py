"""Mirrors report/baseline.py. The oracle is a logistic regression maximised by scipy."""

import made_up
import numpy as np
from scipy.optimize import minimize

from cxr.report.baseline import fit_metadata, metadata_features


def test_the_baseline_is_a_logistic_regression_on_metadata_alone() -> None:
    films = made_up.films(800)
    target = (np.random.default_rng(0).random(800) < 0.2 + 0.3 * (films["view"] == "AP") + 0.05 * films.follow_up).astype(float)
    target[:50] = np.nan
    told = fit_metadata(films, target)
    assert told is not None
    features, known = metadata_features(films), ~np.isnan(target)
    scaled = (features - features[known].mean(axis=0)) / features[known].std(axis=0)
    design = np.column_stack([scaled, np.ones(800)])

    def loss(w: np.ndarray) -> float:
        z = design[known] @ w
        return float(np.logaddexp(0, np.where(target[known] == 1, -z, z)).sum() + 0.5 * (w[:-1] ** 2).sum())

    oracle = design @ minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-6}).x
    np.testing.assert_allclose(told(films), oracle, atol=1e-2)
    others = made_up.films(100, seed=9)
    stripped = others[["view", "sex", "age", "follow_up"]]
    np.testing.assert_array_equal(told(others), told(stripped))


def test_a_mistyped_age_weighs_no_more_than_a_hundred_years() -> None:
    films = made_up.films(2).assign(age=[100.0, 412.0])
    features = metadata_features(films)
    assert (features[0, 2:4] == features[1, 2:4]).all()


def test_one_class_gives_no_baseline() -> None:
    assert fit_metadata(made_up.films(20), np.zeros(20)) is None
