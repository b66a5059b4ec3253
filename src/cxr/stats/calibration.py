"""Does 30 % mean 30 %: whether predicted probabilities are the shares that are then observed, and what to do if not.

Every interval here counts patients, not films, by the cluster-robust ("sandwich") variance of Liang & Zeger 1986.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

from cxr.stats.bootstrap import Estimate
from cxr.stats.operating import clustered_wilson

# Newton converges in about ten steps or not at all
MAX_STEPS = 100
UNDEFINED = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from the observed shares (the levels of Van Calster et al. 2016, 2019).

    Attributes:
        intercept: calibration in the large: what must be added to every logit for the mean probability to be the observed share; 0 is right, above 0
            the model says too little. NaN without both classes.
        slope: what every logit must be multiplied by (with an intercept of its own); 1 is right, below 1 the model is too sure of itself. NaN where
            the logits separate the classes or are all one.
        brier: mean squared error of the probability.
        ece: expected calibration error, root of the mean square over bins.
    """

    intercept: Estimate
    slope: Estimate
    brier: Estimate
    ece: Estimate


class ReliabilityBin(NamedTuple):
    """Films of similar probability: what the model said on average, and the share that had the finding."""

    mean_probability: float
    observed: Estimate
    n_films: int


def calibration(logits: np.ndarray, positive: np.ndarray, patients: np.ndarray, *, level: float = 0.95) -> Calibration:
    """The four numbers of `Calibration`, with intervals that count patients.

    Args:
        logits: (N,) finite; the probability is their sigmoid.
        positive: (N,) bool, the outcome.
        patients: (N,) the patient of each film.
        level: coverage aimed at.

    Raises:
        ValueError: a logit is not finite.

    >>> logits, positive = np.array([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0]), np.array([False, True, False, True, False, True])
    >>> result = calibration(logits, positive, np.arange(6))
    >>> round(result.intercept.value, 3), round(result.slope.value, 3), round(result.brier.value, 3)
    (0.0, 0.42, 0.266)
    """
    _refuse_infinite(logits)
    ones, probabilities = np.ones((logits.size, 1)), expit(logits)
    both = positive.any() and not positive.all()
    return Calibration(
        _regression(ones, logits, positive, patients, level)[0] if both else UNDEFINED,
        _regression(np.hstack([ones, logits[:, None]]), np.zeros_like(logits), positive, patients, level)[1] if _overlap(logits, positive) else UNDEFINED,
        brier(probabilities, positive, patients, level=level),
        calibration_error(probabilities, positive, patients, level=level),
    )


def recalibrate(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of the outcome on the logit, by maximum likelihood (Cox 1958).

    Args:
        logits: (N,) finite.
        positive: (N,) bool.

    Returns:
        (intercept, slope); (0, 1) is calibrated. NaN where the likelihood has no maximum: one class only, logits that are all one, or no overlap (every
        positive at or above every negative, or the reverse).

    >>> logits, positive = np.array([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0]), np.array([False, True, False, True, False, True])
    >>> intercept, slope = recalibrate(logits, positive)
    >>> round(abs(intercept), 3), round(slope, 3)
    (0.0, 0.42)
    """
    _refuse_infinite(logits)
    if not _overlap(logits, positive):
        return np.nan, np.nan
    intercept, slope = _fit(np.stack([np.ones_like(logits), logits], axis=1), np.zeros_like(logits), positive)
    return float(intercept), float(slope)


def brier(probabilities: np.ndarray, positive: np.ndarray, patients: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Mean squared error of the probability (Brier 1950), with an interval on the logit scale that counts patients.

    Saying the prevalence p of every film scores p (1 - p), so it means nothing without the prevalence beside it. At exactly 0 or 1 nothing varies:
    there the score interval of a proportion (Wilson 1927) over the patients stands in.

    Args:
        probabilities: (N,) in [0, 1].
        positive: (N,) bool.
        patients: (N,).
        level: coverage aimed at.

    Returns:
        The mean and its interval; NaN without films, and an interval of NaN where one patient owns them all.

    >>> estimate = brier(np.array([0.1, 0.4, 0.8, 0.7]), np.array([False, False, True, True]), np.arange(4))
    >>> round(estimate.value, 3), round(estimate.lo, 3), round(estimate.hi, 3)
    (0.075, 0.031, 0.17)
    """
    if not probabilities.size:
        return UNDEFINED
    loss = (probabilities - positive) ** 2
    value = float(loss.mean())
    z = float(ndtri(0.5 + level / 2))
    if value in (0.0, 1.0):
        reach = z**2 / (np.unique(patients).size + z**2)
        return Estimate(value, 0.0, reach) if value == 0.0 else Estimate(value, 1 - reach, 1.0)
    deviation = float(_covariance_of_sums((loss - value)[:, None], patients)[0, 0]) ** 0.5 / loss.size
    spread = z * deviation / (value * (1 - value))
    return Estimate(value, float(expit(logit(value) - spread)), float(expit(logit(value) + spread)))


def calibration_error(probabilities: np.ndarray, positive: np.ndarray, patients: np.ndarray, *, n_bins: int = 10, level: float = 0.95) -> Estimate:
    """Expected calibration error: root of the mean squared distance between probability and observed share over bins of equally many films, debiased.

    The plain error is never 0, even of a calibrated model: chance alone moves the share of every bin. What chance adds to the square is taken off (Kumar,
    Liang & Ma 2019), here by patient, which is theirs where every patient has one film and a bin one probability. It is the error of the model rounded to
    its bins, a lower bound of the model's own. A bin of one patient cannot tell chance from error and is left out.

    Args:
        probabilities: (N,) in [0, 1].
        positive: (N,) bool.
        patients: (N,).
        n_bins: at most so many; films of one probability stay together.
        level: coverage aimed at.

    Returns:
        The root of the debiased square, 0 where chance explains all of it, and its interval, which is never of zero width; NaN where no bin is left. A
        bootstrap fails at 0, the end of the scale, where a good model should be: the interval holds the squares that the one seen lies within reach of,
        with the variance that each of them would give it (as the score interval of Wilson 1927 does for a proportion). In simulations of 60-1000
        patients, 1-4 films each, 95 % intervals covered 92-97 % (91 % at a prevalence of 1 %).

    >>> probabilities, positive = np.repeat([0.2, 0.6], 50), np.arange(100) % 10 < np.repeat([4, 6], 50)
    >>> estimate = calibration_error(probabilities, positive, np.arange(100))
    >>> round(estimate.value, 3), round(estimate.lo, 3), round(estimate.hi, 3)
    (0.123, 0.044, 0.26)
    """
    if not probabilities.size:
        return UNDEFINED
    bins = _equal_mass_bins(probabilities, n_bins)
    patients_in = np.array([np.unique(patients[bins == b]).size for b in range(bins.max() + 1)])
    kept = patients_in[bins] > 1
    if not kept.any():
        return UNDEFINED

    _, bins = np.unique(bins[kept], return_inverse=True)
    patients_in = patients_in[patients_in > 1]
    residual, member = (probabilities - positive)[kept], np.eye(patients_in.size)[bins]
    films_in = member.sum(axis=0)
    share, distance = films_in / films_in.sum(), residual @ member / films_in

    # the sandwich of the bins' distances; a patient with films in two bins ties them together
    excess = _sums_by_patient(member * (residual - distance[bins])[:, None], patients[kept]) / films_in
    covariance = excess.T @ excess * np.sqrt(np.outer(patients_in, patients_in) / np.outer(patients_in - 1, patients_in - 1))
    square = max(0.0, float(share @ (distance**2 - np.diag(covariance))))

    # The variance of the square is 4 * slope * (true square) + noise, the first part measured along the distances seen. A bin without positives looks
    # certain, and is not: half a patient of the other outcome joins the variance of each (Jeffreys' prior; Brown, Cai & DasGupta 2001)
    weighted = share[:, None] * (covariance + np.diag(0.5 / patients_in**2))
    noise = 2 * float(np.trace(weighted @ weighted))
    slope = (float(distance @ weighted @ (share * distance)) + noise / 2) / float(share @ distance**2 + np.trace(weighted))
    z = float(ndtri(0.5 + level / 2))
    centre = square + 2 * z**2 * slope
    reach = z * (4 * slope * (square + z**2 * slope) + noise) ** 0.5
    return Estimate(square**0.5, max(0.0, centre - reach) ** 0.5, (centre + reach) ** 0.5)


def reliability(probabilities: np.ndarray, positive: np.ndarray, patients: np.ndarray, *, n_bins: int = 10, level: float = 0.95) -> list[ReliabilityBin]:
    """The reliability diagram: bins of equally many films, from the lowest probability to the highest.

    Args:
        probabilities: (N,) in [0, 1].
        positive: (N,) bool.
        patients: (N,).
        n_bins: at most so many; films of one probability stay together.
        level: coverage aimed at.

    >>> bins = reliability(np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, False, True, False]), np.arange(4), n_bins=2)
    >>> [(round(b.mean_probability, 3), b.observed.value, b.n_films) for b in bins]
    [(0.2, 0.0, 2), (0.7, 0.5, 2)]
    """
    if not probabilities.size:
        return []
    bins = _equal_mass_bins(probabilities, n_bins)
    films = [np.flatnonzero(bins == b) for b in range(bins.max() + 1)]
    return [ReliabilityBin(float(probabilities[f].mean()), clustered_wilson(positive[f], patients[f], level=level), f.size) for f in films]


def platt(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope a and intercept b that make sigmoid(a * logit + b) a probability (Platt 1999).

    A logistic regression on targets of (n_pos + 1) / (n_pos + 2) and 1 / (n_neg + 2) instead of 1 and 0, which keeps it finite where the logits separate
    the classes.

    Args:
        logits: (N,) finite, of films that nothing else is measured on.
        positive: (N,) bool.

    Returns:
        (a, b); NaN with one class only, or logits that are all one.

    >>> a, b = platt(np.array([-1.0, 0.0, 2.0, 3.0]), np.array([False, False, True, True]))
    >>> round(a, 3), round(b, 3)
    (0.674, -0.674)
    """
    _refuse_infinite(logits)
    n_positive, n_negative = np.count_nonzero(positive), np.count_nonzero(~positive)
    if not n_positive or not n_negative or np.ptp(logits) == 0:
        return np.nan, np.nan
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    intercept, slope = _fit(np.stack([np.ones_like(logits), logits], axis=1), np.zeros_like(logits), target)
    return float(slope), float(intercept)


def prior_shift(logits: np.ndarray, *, trained_prevalence: float, target_prevalence: float) -> np.ndarray:
    """Logits for films among which the finding is rarer or commoner than where the model learned (Elkan 2001; Saerens et al. 2002).

    Right where only the prevalence differs: films with the finding look alike in both places, and films without it too.

    Args:
        logits: of any shape.
        trained_prevalence, target_prevalence: shares strictly between 0 and 1.

    Raises:
        ValueError: a prevalence is not strictly between 0 and 1.

    >>> expit(prior_shift(np.array([0.0]), trained_prevalence=0.5, target_prevalence=0.1)).round(3)
    array([0.1])
    """
    for prevalence in (trained_prevalence, target_prevalence):
        if not 0 < prevalence < 1:
            raise ValueError(f"a prevalence lies strictly between 0 and 1, got {prevalence}")
    shifted: np.ndarray = logits + logit(target_prevalence) - logit(trained_prevalence)
    return shifted


def _overlap(logits: np.ndarray, positive: np.ndarray) -> bool:
    """Whether some negative lies above a positive and some positive above a negative, without which no slope is the likeliest (Albert & Anderson 1984)."""
    present, absent = logits[positive], logits[~positive]
    return present.size > 0 and absent.size > 0 and bool(present.min() < absent.max() and absent.min() < present.max())


def _fit(design: np.ndarray, offset: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Coefficients (P,) of the logistic regression of target (N,) in [0, 1] on design (N, P) and an offset (N,), by Newton's method to rounding."""

    def log_likelihood(coefficients: np.ndarray) -> float:
        linear = offset + design @ coefficients
        return float(target @ linear - np.logaddexp(0, linear).sum())

    coefficients = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        linear = offset + design @ coefficients
        step = np.linalg.solve(_information(design, linear), design.T @ (target - expit(linear)))
        if np.abs(step).max() <= 1e-14 * (1 + np.abs(coefficients).max()):
            break
        # far from the maximum the full step may overshoot; within rounding of it the likelihood no longer tells
        here = log_likelihood(coefficients)
        while log_likelihood(coefficients + step) < here - 1e-12 * abs(here):
            step /= 2
        coefficients += step
    return coefficients


def _information(design: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Fisher information (P, P) of a logistic regression at the linear predictor (N,)."""
    # expit(x) * expit(-x) rather than p * (1 - p), which is 0 once p rounds to 1
    information: np.ndarray = (design.T * (expit(linear) * expit(-linear))) @ design
    return information


def _regression(design: np.ndarray, offset: np.ndarray, positive: np.ndarray, patients: np.ndarray, level: float) -> list[Estimate]:
    """Coefficients of the logistic regression of the outcome, with the intervals of their cluster-robust variance."""
    coefficients = _fit(design, offset, positive)
    linear = offset + design @ coefficients
    inverse = np.linalg.inv(_information(design, linear))
    covariance = inverse @ _covariance_of_sums(design * (positive - expit(linear))[:, None], patients) @ inverse
    # the variance is measured on the patients of the rarer class: with 20 of them, 95 % intervals covered 93 % by normal quantiles, 95 % by Student's
    n_deciding = min(np.unique(patients[positive]).size, np.unique(patients[~positive]).size)
    spread = float(stdtrit(n_deciding - 1, 0.5 + level / 2)) * np.sqrt(np.diag(covariance))
    return [Estimate(float(c), float(c - s), float(c + s)) for c, s in zip(coefficients, spread, strict=True)]


def _covariance_of_sums(terms: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Covariance (P, P) of the column sums of terms (N, P) that sum to 0, patients being independent; NaN for one patient."""
    sums = _sums_by_patient(terms, patients)
    covariance: np.ndarray = sums.T @ sums * (len(sums) / (len(sums) - 1) if len(sums) > 1 else np.nan)
    return covariance


def _sums_by_patient(terms: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Sums (patients, P) of terms (N, P) over the films of each patient."""
    _, index = np.unique(patients, return_inverse=True)
    sums = np.zeros((index.max() + 1, terms.shape[1]))
    np.add.at(sums, index, terms)
    return sums


def _equal_mass_bins(probabilities: np.ndarray, n_bins: int) -> np.ndarray:
    """The bin (N,) of each film, 0 the lowest: at most n_bins, of about equally many films, films of one probability in one bin."""
    cuts = np.sort(probabilities)[np.arange(1, n_bins) * probabilities.size // n_bins]
    _, bins = np.unique(np.searchsorted(np.unique(cuts), probabilities, side="right"), return_inverse=True)
    return bins


def _refuse_infinite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite")
