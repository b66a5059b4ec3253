"""How well scores rank positives above negatives: the ROC of one finding, its area and its points, exact, with weights.

Everything that resamples (bootstrap intervals, paired differences) reweights the same sorted scores, so one function serves all of it.
"""

import numpy as np
from scipy.sparse import csr_array

# rates that differ by less are one rate: sums of weights in another order
ROUNDING = 1e-12
# ten for each positive of the commonest finding, and their counts still fit the cache
BUCKETS = 2**18


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
    return _share(*_won_and_pairs(scores, positive, weights))


def auroc_within(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None, strata: np.ndarray) -> np.ndarray:
    """AUROC over the pairs of films that share a stratum, such as the view: what the scores rank beyond what the stratum already tells.

    Won pairs summed over the strata, divided by all their pairs (the stratified Mann-Whitney statistic of van Elteren 1960 with weight one to every
    pair), so that a stratum counts by its pairs and one without both classes does not count.

    Args, returns and errors as in `auroc`, and
        strata: (N,) the stratum of each film, of any type that sorts.

    >>> scores, positive = np.array([0.1, 0.4, 0.6, 0.8]), np.array([False, True, False, True])
    >>> auroc(scores, positive), auroc_within(scores, positive, None, np.array(["AP", "PA", "AP", "AP"]))
    (array([0.75]), array([1.]))
    """
    weights = np.ones((1, scores.size)) if weights is None else weights
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in np.unique(strata):
        inside = strata == stratum
        won_inside, pairs_inside = _won_and_pairs(scores[inside], positive[inside], weights[:, inside])
        won, pairs = won + won_inside, pairs + pairs_inside
    return _share(won, pairs)


def average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted area under the precision-recall curve as a step function (average precision), films of one score moving together.

    The mean, over the positives, of the precision at each one's score (Davis & Goadrich 2006 on why not to interpolate). A useless model scores the
    prevalence, so it means nothing without the prevalence beside it.

    Args, returns and errors as in `auroc`.

    >>> average_precision(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    array([0.83333333])
    """
    _refuse_unrankable(scores)
    weights = np.ones((1, scores.size)) if weights is None else weights

    order = np.argsort(-scores)
    present = np.flatnonzero(positive[order])
    # a film is flagged together with all films of its score, so precision is read behind the last of them
    last = np.searchsorted(-scores[order], -scores[order][present], side="right") - 1

    flagged = _cumulated(weights, order, last + 1)
    hits = _cumulated(weights, order[present], np.searchsorted(last, last, side="right"))

    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    weight_of_present = weights.T[order[present]]
    total = weight_of_present.sum(axis=0)
    decided = (total > 0) & (weights.sum(axis=1) > total)
    result: np.ndarray = np.divide((weight_of_present * precision).sum(axis=0), total, out=np.full(len(weights), np.nan), where=decided)
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
    false_positive_rate, sensitivity = _roc(scores, positive, np.ones((1, scores.size)))
    return false_positive_rate[0], sensitivity[0]


def sensitivity_at(scores: np.ndarray, positive: np.ndarray, false_positive_rate: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted sensitivity of the ROC at given false-positive rates, along straight lines between its points.

    Where the curve rises straight up at exactly the rate asked for, as it can wherever that rate is a count of the same negatives, the answer is the
    middle of the rise; at 0 and 1 it is the top, so that a model without a false alarm is credited with what it finds. Against a reader's estimated rate
    in simulated cohorts (60 and 200 positive patients, AUROC 0.75-0.95, 20 to 150 false alarms) the middle was off by at most 0.006 on average, the
    bottom by -0.011 and the top by 0.007; with two false alarms expected, this rule by 0.010, the middle everywhere by -0.018, the top by 0.029.

    Args:
        scores: (N,) finite.
        positive: (N,) bool.
        false_positive_rate: in [0, 1], of a shape that broadcasts to (B, K): (K,) is one grid for every row of weights, (B, 1) a rate of its own for each.
        weights: (B, N) non-negative; one row of ones if None.

    Returns:
        (B, K) float64; NaN in a row whose positives or negatives weigh nothing, and where the rate is NaN.

    Raises:
        ValueError: a score is not finite, or a rate lies outside [0, 1].

    >>> scores, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    >>> sensitivity_at(scores, positive, np.array([0.25, 0.5]))
    array([[0.75, 1.  ]])
    """
    if np.any((false_positive_rate < -ROUNDING) | (false_positive_rate > 1 + ROUNDING)):
        raise ValueError("a false-positive rate lies outside [0, 1]")
    rates, sensitivities = _roc(scores, positive, np.ones((1, scores.size)) if weights is None else weights)
    asked = np.broadcast_to(false_positive_rate, (len(rates), np.shape(false_positive_rate)[-1]))
    # the last corner at or left of the rate and the first at or right of it: the ends of a piece, or the top and the bottom of a rise
    left = np.stack([row.searchsorted(wanted + ROUNDING, "right") for row, wanted in zip(rates, asked, strict=True)]) - 1
    right = np.stack([row.searchsorted(wanted - ROUNDING, "left") for row, wanted in zip(rates, asked, strict=True)])
    right = np.minimum(right, rates.shape[1] - 1)

    rate_left, rate_right = np.take_along_axis(rates, left, axis=1), np.take_along_axis(rates, right, axis=1)
    # how far the answer lies from the left corner to the right one, which in a rise is from its top to its bottom
    in_rise = np.where((asked <= ROUNDING) | (asked >= 1 - ROUNDING), 0.0, 0.5)
    share = np.divide(asked - rate_left, rate_right - rate_left, out=in_rise, where=rate_right - rate_left > ROUNDING)
    at_left, at_right = np.take_along_axis(sensitivities, left, axis=1), np.take_along_axis(sensitivities, right, axis=1)
    return np.where(np.isnan(asked), np.nan, at_left + share * (at_right - at_left))


def partial_auroc(scores: np.ndarray, positive: np.ndarray, lo: float, hi: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted area under the ROC between two false-positive rates, standardised so that 0.5 is chance and 1 perfect (McClish 1989).

    Args:
        scores, positive, weights: as in `auroc`.
        lo, hi: false-positive rates, 0 <= lo < hi <= 1.

    Returns:
        (B,) float64, below 0.5 where the ROC runs below the diagonal; NaN as in `auroc`.

    Raises:
        ValueError: a score is not finite, or the two rates are not in order.

    >>> partial_auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]), 0.0, 0.5)
    array([0.83333333])
    """
    if not 0 <= lo < hi <= 1:
        raise ValueError(f"a partial area needs 0 <= lo < hi <= 1, got {lo} and {hi}")
    rates, sensitivities = _roc(scores, positive, np.ones((1, scores.size)) if weights is None else weights)

    # every straight piece of the curve, cut to what lies between the two rates: width times the height at its middle
    start, width = rates[:, :-1], np.diff(rates, axis=1)
    cut = np.clip(rates, lo, hi)
    share = np.divide((cut[:, :-1] + cut[:, 1:]) / 2 - start, width, out=np.zeros_like(width), where=width > 0)
    area = (np.diff(cut, axis=1) * (sensitivities[:, :-1] + share * np.diff(sensitivities, axis=1))).sum(axis=1)
    chance, perfect = (hi**2 - lo**2) / 2, hi - lo
    result: np.ndarray = (1 + (area - chance) / (perfect - chance)) / 2
    return result


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall (K,) and precision (K,) at every distinct score, from the highest threshold to the lowest.

    >>> precision_recall_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    (array([0.5, 1. , 1. ]), array([1.        , 0.66666667, 0.5       ]))
    """
    (hits,), (false_alarms,) = _weight_at_thresholds(scores, positive, np.ones((1, scores.size)))
    return hits / hits[-1], hits / (hits + false_alarms)


def _won_and_pairs(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """What the pairs of a positive and a negative weigh where the positive scores higher (ties one half), and what all of them weigh: (B,) each."""
    scores, positive = np.ascontiguousarray(scores), np.ascontiguousarray(positive)  # often columns of a table, which are slow to run through
    _refuse_unrankable(scores)
    if weights is None:
        present, absent = np.sort(scores[np.flatnonzero(positive)]), scores[np.flatnonzero(~positive)]
        return np.array([_count_won(present, absent)]), np.array([float(present.size * absent.size)])

    present, absent = np.flatnonzero(positive), np.flatnonzero(~positive)
    absent = absent[np.argsort(scores[absent])]

    beaten = np.searchsorted(scores[absent], scores[present], side="left")
    beaten_or_tied = np.searchsorted(scores[absent], scores[present], side="right")
    below = _cumulated(weights, absent, np.concatenate([beaten, beaten_or_tied, [absent.size]]))

    weight_of_present = weights.T[present]
    won = np.einsum("pb,pb->b", weight_of_present, below[: beaten.size] + below[beaten.size : -1]) / 2
    return won, weight_of_present.sum(axis=0) * below[-1]


def _cumulated(weights: np.ndarray, order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What the first counts[k] films of an order weigh: (K, B).

    What lies between two counts is added up for all weightings at once, by a sparse product; only the sums are cumulated.

    Args:
        weights: (B, N).
        order: (n,) indices of films.
        counts: (K,) in [0, n], in any order.
    """
    edges, at = np.unique(np.append(counts, 0), return_inverse=True)
    between = csr_array((np.ones(edges[-1]), order[: edges[-1]], edges), shape=(edges.size - 1, weights.shape[1]))
    total = np.zeros((edges.size, len(weights)))
    np.cumsum(between @ weights.T, axis=0, out=total[1:])
    return total[at[:-1]]


def _count_won(present: np.ndarray, absent: np.ndarray) -> float:
    """Pairs in which the positive scores higher, ties one half.

    Only what lies near a positive has to be sorted: scores fall into BUCKETS equal ranges, and a negative whose range holds no positive is merely counted.

    Args:
        present: (P,) scores of positives, ascending.
        absent: (A,) scores of negatives.
    """
    if not present.size or not absent.size:
        return 0.0
    lowest, highest = min(present[0], absent.min()), max(present[-1], absent.max())
    with np.errstate(all="ignore"):
        scale = BUCKETS / (highest - lowest)
    won = 0
    if 0 < scale < np.inf:
        # subtraction, multiplication and truncation all keep the order, so a lower bucket means a lower score
        bucket, bucket_of_absent = ((present - lowest) * scale).astype(np.int32), ((absent - lowest) * scale).astype(np.int32)
        shared = np.zeros(max(bucket.max(), bucket_of_absent.max()) + 1, bool)
        shared[bucket] = True
        near = shared[bucket_of_absent]
        won = 2 * int(np.cumsum(np.bincount(bucket_of_absent, minlength=shared.size) * ~shared)[bucket].sum())
        absent = absent[near]
    absent = np.sort(absent)
    beaten = np.searchsorted(absent, present, side="left")
    tied = present[np.append(absent, np.inf)[beaten] == present]
    n_tied = np.searchsorted(absent, tied, side="right") - np.searchsorted(absent, tied, side="left")
    return (won + 2 * int(beaten.sum()) + int(n_tied.sum())) / 2


def _roc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and sensitivity (B, K + 1) from (0, 0) to (1, 1) at K distinct scores; a row of NaN where a class weighs nothing."""
    hits, false_alarms = _weight_at_thresholds(scores, positive, weights)
    both = (hits[:, -1:] > 0) & (false_alarms[:, -1:] > 0)
    origin = np.where(both, 0.0, np.nan)
    rates, sensitivities = (_share(count, np.where(both, count[:, -1:], 0)) for count in (false_alarms, hits))
    return np.hstack([origin, rates]), np.hstack([origin, sensitivities])


def _weight_at_thresholds(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What true and false positives weigh (B, K) when everything at or above each distinct score is flagged, highest score first."""
    _refuse_unrankable(scores)
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    n_hits = np.cumsum(positive[order])[last_of_score]
    hits = _cumulated(weights, order[positive[order]], n_hits)
    false_alarms = _cumulated(weights, order[~positive[order]], last_of_score + 1 - n_hits)
    return np.ascontiguousarray(hits.T), np.ascontiguousarray(false_alarms.T)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole weighs nothing."""
    result: np.ndarray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


def _refuse_unrankable(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
