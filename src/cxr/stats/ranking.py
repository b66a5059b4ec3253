"""How well scores rank positives above negatives: AUROC of one finding, exact, with weights.

Everything that resamples (bootstrap intervals, paired differences) reweights the same sorted scores, so one function serves all of it.
"""

import numpy as np


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted area under the ROC curve, ties counting one half.

    The probability that a random positive scores above a random negative (Mann & Whitney 1947; Hanley & McNeil 1982), for B weightings at once.

    Args:
        scores: (N,) finite scores; any increasing transform gives the same result.
        positive: (N,) bool, True where the finding is present. Unknown targets are left out by the caller.
        weights: (B, N) non-negative weights, such as how often each image's patient was drawn; one row of ones if None.

    Returns:
        (B,) float64 in [0, 1]; NaN for a row whose positives or negatives weigh nothing: undefined, which is not 0 and not one half.

    Raises:
        ValueError: a score is not finite. A NaN that is ranked somewhere would be a silent wrong number.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    array([0.875])
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
    weights = np.ones((1, scores.size)) if weights is None else weights

    present, absent = np.flatnonzero(positive), np.flatnonzero(~positive)
    absent = absent[np.argsort(scores[absent])]

    # weight_below[:, k]: what the k lowest negatives weigh, so that a positive's share of won pairs is one look-up
    weight_below = np.zeros((len(weights), absent.size + 1))
    np.cumsum(weights[:, absent], axis=1, out=weight_below[:, 1:])
    beaten = np.searchsorted(scores[absent], scores[present], side="left")
    beaten_or_tied = np.searchsorted(scores[absent], scores[present], side="right")

    won = (weights[:, present] * (weight_below[:, beaten] + weight_below[:, beaten_or_tied])).sum(axis=1) / 2
    pairs = weights[:, present].sum(axis=1) * weight_below[:, -1]
    result: np.ndarray = np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return result


def average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted area under the precision-recall curve as a step function (average precision), films of one score moving together.

    The mean, over the positives, of the precision at each one's score (Davis & Goadrich 2006 on why not to interpolate). A useless model scores the
    prevalence, so it means nothing without the prevalence beside it.

    Args, returns and errors as in `auroc`.

    >>> average_precision(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    array([0.83333333])
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
    weights = np.ones((1, scores.size)) if weights is None else weights

    order = np.argsort(-scores)
    present = np.flatnonzero(positive[order])
    # a film is flagged together with all films of its score, so precision is read behind the last of them
    last = np.searchsorted(-scores[order], -scores[order][present], side="right") - 1

    weight_of = weights[:, order]
    flagged = np.cumsum(weight_of, axis=1)[:, last]
    weight_of_present = weight_of[:, present]
    hits_by_rank = np.cumsum(weight_of_present, axis=1)
    hits = hits_by_rank[:, np.searchsorted(last, last, side="right") - 1]

    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    total = weight_of_present.sum(axis=1)
    decided = (total > 0) & (weights.sum(axis=1) > total)
    result: np.ndarray = np.divide((weight_of_present * precision).sum(axis=1), total, out=np.full(len(weights), np.nan), where=decided)
    return result


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The receiver operating characteristic at every distinct score.

    Args:
        scores: (N,) finite.
        positive: (N,) bool with both values.

    Returns:
        false_positive_rate (K + 1,) and sensitivity (K + 1,), from (0, 0) to (1, 1), one point per distinct score.

    >>> roc_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
    """
    hits, false_alarms = _counts_at_thresholds(scores, positive)
    return np.r_[0.0, false_alarms / false_alarms[-1]], np.r_[0.0, hits / hits[-1]]


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall (K,) and precision (K,) at every distinct score, from the highest threshold to the lowest.

    >>> precision_recall_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    (array([0.5, 1. , 1. ]), array([1.        , 0.66666667, 0.5       ]))
    """
    hits, false_alarms = _counts_at_thresholds(scores, positive)
    return hits / hits[-1], hits / (hits + false_alarms)


def _counts_at_thresholds(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (K,) when everything at or above each distinct score is flagged, highest score first."""
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    return np.cumsum(positive[order])[last_of_score], np.cumsum(~positive[order])[last_of_score]
