"""Whether a heat map is hot where a radiologist drew a box: pointing game, overlap, and what chance would reach.

Heat maps are (S, S) in [0, 1], 0 where nothing speaks for the finding. Boxes are corners (x, y, right, below) in pixels of the map; coordinates are edges, so
pixel k reaches from k to k + 1. A box may reach beyond the map, where the network did not look: that part counts as missed.
"""

import numpy as np
from scipy import ndimage

from cxr.stats.bootstrap import Estimate, bootstrap_difference, logit_interval, patient_weights

# Wang et al. 2017, whose IoBB divides by the detected box
IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
# shares of a map's maximum from which on it may be called hot
HEAT_THRESHOLDS = tuple(twentieths / 20 for twentieths in range(1, 20))
# standard deviation of a map that knows nothing, as a share of the side: cut between 0.95 and 0.05 it is a nodule, or a heart
BLOB = 0.12


def peak(heat: np.ndarray) -> np.ndarray:
    """The centre of the hottest pixel, (2,) x, y; of several, that which is nearest to their mean; NaN where the map is empty.

    A coarse map made large has level borders: taking the first of equals would pull its peak to the upper left.

    >>> peak(np.array([[0.0, 1.0], [0.0, 0.5]])).tolist()
    [1.5, 0.5]
    """
    if heat.max() <= 0:
        return np.full(2, np.nan)
    ties = np.argwhere(heat == heat.max())
    row, column = ties[((ties - ties.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return np.array([column + 0.5, row + 0.5])


def detect(heat: np.ndarray, threshold: float) -> np.ndarray:
    """The box around the hot region that holds the peak; (4,) corners, NaN where the map is empty. Regions touch at sides, not at corners.

    >>> detect(np.array([[0.9, 0.0, 0.8], [0.0, 0.7, 1.0]]), 0.6).tolist()
    [1.0, 0.0, 3.0, 2.0]
    """
    x, y = peak(heat)
    if np.isnan(x):
        return np.full(4, np.nan)
    regions = ndimage.label(heat >= threshold * heat.max())[0]
    rows, columns = ndimage.find_objects(regions)[regions[int(y), int(x)] - 1]
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.float64)


def points_into(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The pointing game (Zhang et al. 2018): (N,) bool, True where the point (N, 2) lies in the box (N, 4). Without their tolerance of 15 pixels around a box.

    A map without a peak misses.
    """
    inside: np.ndarray = np.all((points >= boxes[:, :2]) & (points < boxes[:, 2:]), axis=1)
    return inside


def overlap(detected: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(IoU, IoBB) of detected boxes (N, 4) with the radiologist's (N, 4); both 0 where nothing was detected.

    IoU is their common area over the area of both together; IoBB, as Wang et al. 2017 define it, over that of the detected box: how pure it is.

    >>> iou, iobb = overlap(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]]))
    >>> round(float(iou[0]), 3), float(iobb[0])
    (0.333, 0.5)
    """
    found = np.isfinite(detected).all(axis=1)
    detected = np.where(found[:, None], detected, 0.0)
    sides = np.minimum(detected[:, 2:], boxes[:, 2:]) - np.maximum(detected[:, :2], boxes[:, :2])
    common = np.where(found, sides.clip(0).prod(axis=1), 0.0)
    area, of_detected = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (detected[:, 2:] - detected[:, :2]).prod(axis=1)
    return common / (area + of_detected - common), common / np.where(found, of_detected, 1.0)


def box_share(boxes: np.ndarray, side: int) -> np.ndarray:
    """(N,) the share of a map of `side` pixels that each box (N, 4) covers: how often a random point falls into it."""
    inside = boxes.clip(0, side)
    shares: np.ndarray = (inside[:, 2:] - inside[:, :2]).prod(axis=1) / side**2
    return shares


def blob(x: float, y: float, side: int) -> np.ndarray:
    """A map that knows nothing: a round hot spot, (side, side), whose peak is the pixel around (x, y)."""
    centres = np.arange(side) + 0.5
    across, down = (np.exp(-0.5 * ((centres - (np.floor(at) + 0.5)) / (BLOB * side)) ** 2) for at in (x, y))
    return np.outer(down, across)


def best_threshold(overlaps: np.ndarray) -> int:
    """Which of T thresholds gives the largest mean of (N, T) overlaps; the first of equals."""
    return int(overlaps.mean(axis=0).argmax())


def mean_by_patient(values: np.ndarray, patients: np.ndarray, *, n_draws: int, seed: int) -> Estimate:
    """The mean of (N,) values in [0, 1] with its 95 % patient-bootstrap interval; NaN without values.

    >>> [round(number, 2) for number in mean_by_patient(np.array([0.2, 0.4, 0.6, 0.8]), np.arange(4), n_draws=500, seed=0)]
    [0.5, 0.09, 0.91]
    """
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    draws = np.concatenate([_mean(values, weights) for weights in patient_weights(patients, n_draws, seed)])
    value = float(values.mean())
    return Estimate(value, *logit_interval(value, draws, len(np.unique(patients))))


def mean_difference_by_patient(values: np.ndarray, others: np.ndarray, patients: np.ndarray, *, n_draws: int, seed: int) -> Estimate:
    """The mean of (N,) values less that of the others, of the same boxes, with its 95 % patient-bootstrap interval."""
    return bootstrap_difference(lambda weights: _mean(values, weights), lambda weights: _mean(others, weights), patients, n_draws=n_draws, seed=seed)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    weights = np.ones((1, len(values))) if weights is None else weights
    means: np.ndarray = weights @ values / weights.sum(axis=1)
    return means
