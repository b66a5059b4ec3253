"""Logistic regression whose weights are held small."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


def ridge_logistic(features: np.ndarray, labels: np.ndarray, *, c: float) -> tuple[np.ndarray, float]:
    """Weights and intercept that minimise the squared weights / 2 + c times the summed log loss; the intercept is free (Hastie et al. 2009, section 4.4.4).

    The penalty is on features brought to mean 0 and variance 1; what is returned is for the features as they are.

    Args:
        features: (N, D).
        labels: (N,) bool, both classes among them.
        c: inverse strength of the penalty, > 0, as scikit-learn's C.

    Returns:
        (D,) weights and the intercept: the log-odds are features @ weights + intercept.

    >>> weights, intercept = ridge_logistic(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([False, False, True, True]), c=1.0)
    >>> [round(float(weights[0]), 3), round(intercept, 3)]
    [0.844, -1.267]
    """
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0
    scaled, sign = (features - mean) / spread, np.where(labels, 1.0, -1.0)

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (scaled @ point[:-1] + point[-1])
        pull = -c * sign * expit(-margin)
        return float(c * np.logaddexp(0, -margin).sum() + point[:-1] @ point[:-1] / 2), np.append(scaled.T @ pull + point[:-1], pull.sum())

    rate = labels.mean()
    start = np.append(np.zeros(features.shape[1]), np.log(rate / (1 - rate)))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-6, "ftol": 1e-12}).x
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ mean)
