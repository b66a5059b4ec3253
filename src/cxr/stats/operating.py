"""What a yes/no call is worth: thresholds frozen on one set of films and applied unchanged to another, with intervals that know patients.

A film is called positive where its score is at least the threshold. A threshold chosen on the films that it is judged on looks better than it is
(Leeflang et al. 2008), so choosing and judging are two functions that share nothing but the number.
"""

import numpy as np
from scipy.special import ndtri, stdtrit

from cxr.stats.bootstrap import Estimate

# how many patients' worth of belief that films of one patient always agree; see `clustered_wilson`
PRIOR_PATIENTS = 0.5


def clustered_wilson(hits: np.ndarray, patients: np.ndarray, *, level: float = 0.95) -> Estimate:
    """A proportion of films with an interval that counts patients, not films.

    The score interval (Wilson 1927) with as many films as the clustered ones are worth: their number over the design effect (Rao & Scott 1992), which is
    the variance of the proportion as a ratio of sums over patients, over that of independent films, with Student's quantiles for a variance measured on
    few patients (Korn & Graubard 1998). With one film per patient this is Wilson's interval; compared with others by Saha, Miller & Wang (2016).

    Args:
        hits: (N,) bool, True where the call was right (or whatever is counted).
        patients: (N,) the patient of each film.
        level: coverage aimed at.

    Returns:
        The proportion and its interval, within [0, 1] and never of zero width, or NaN without films.

    >>> patients = np.array([1, 1, 1, 2, 2, 3, 4, 5, 6, 7])
    >>> [round(number, 3) for number in clustered_wilson(patients > 1, patients)]
    [0.7, 0.238, 0.946]
    >>> [round(number, 3) for number in clustered_wilson(patients > 1, np.arange(10))]
    [0.7, 0.397, 0.892]
    >>> [round(number, 3) for number in clustered_wilson(patients > 0, patients)]
    [1.0, 0.591, 1.0]
    """
    if hits.size == 0:
        return Estimate(np.nan, np.nan, np.nan)
    _, index, films = np.unique(patients, return_inverse=True, return_counts=True)
    hits_of = np.bincount(index, weights=hits)
    n, n_patients = hits.size, films.size
    value = float(hits_of.sum()) / n

    # the design effect if films of one patient always agree (Kish 1965), all there is to go by where every film agrees or one patient owns them
    agreeing = float((films**2).sum() / n)
    rarer = int(min(np.count_nonzero(hits_of), np.count_nonzero(hits_of < films)))
    if rarer == 0 or n_patients == 1:
        n_effective = n / agreeing
    else:
        variance = n_patients / (n_patients - 1) * float(((hits_of - value * films) ** 2).sum()) / n**2
        # below 1 it says that films of one patient resemble each other less than those of strangers: chance, and no reason to be surer
        design_effect = max(1.0, variance / (value * (1 - value) / (n - 1)))
        # Measured on few patients with the rarer outcome it is too often too small. Half a patient's worth of `agreeing` joins the measurement, which
        # also leads over to the case above: 95 % intervals of 60 patients, 1-8 films each, at 0.95, covered 91-96 % without it and 94-98 % with it
        design_effect += max(0.0, agreeing - design_effect) * PRIOR_PATIENTS / (rarer + PRIOR_PATIENTS)
        upper = 0.5 + level / 2
        n_effective = n / design_effect * float(stdtrit(n - 1, upper) / stdtrit(n_patients - 1, upper)) ** 2

    z = float(ndtri(0.5 + level / 2))
    centre = (value + z**2 / (2 * n_effective)) / (1 + z**2 / n_effective)
    reach = z / (1 + z**2 / n_effective) * (value * (1 - value) / n_effective + z**2 / (4 * n_effective**2)) ** 0.5
    # rounding must not push an end past the value or out of [0, 1]
    return Estimate(value, max(0.0, min(value, centre - reach)), min(1.0, max(value, centre + reach)))


def choose_threshold(scores: np.ndarray, positive: np.ndarray, *, rule: str, target: float | None = None) -> float:
    """The threshold that these films ask for.

    Args:
        scores: (N,) finite.
        positive: (N,) bool with both values.
        rule: `specificity`, the lowest threshold whose specificity is at least the target; `sensitivity`, the highest whose sensitivity is; `youden`, the
            one with the largest sensitivity + specificity - 1 (Youden 1950), the higher of equals.
        target: of the first two rules, in [0, 1].

    Returns:
        One of the scores, or the next number above them all where nothing may be called positive: always finite, so that JSON can hold it.

    Raises:
        ValueError: a score is not finite, a class is missing, or no such rule or target.

    >>> scores, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    >>> choose_threshold(scores, positive, rule="specificity", target=0.9), choose_threshold(scores, positive, rule="sensitivity", target=0.9)
    (0.8, 0.4)
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
    n_present, n_absent = np.count_nonzero(positive), np.count_nonzero(~positive)
    if not n_present or not n_absent:
        raise ValueError(f"a threshold needs films with and without the finding, but {n_present} of {positive.size} have it")

    thresholds = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
    called_present = n_present - np.searchsorted(np.sort(scores[positive]), thresholds)
    spared_absent = np.searchsorted(np.sort(scores[~positive]), thresholds)
    if rule == "youden":
        # times both counts: whole numbers, so that equals are equal
        index = called_present * n_absent + spared_absent * n_present
        return float(thresholds[index == index.max()][-1])
    if rule not in ("specificity", "sensitivity"):
        raise ValueError(f"{rule}: no such rule; there are specificity, sensitivity and youden")
    if target is None or not 0 <= target <= 1:
        raise ValueError(f"the rule {rule} needs a target in [0, 1], not {target}")
    if rule == "specificity":
        return float(thresholds[spared_absent / n_absent >= target][0])
    return float(thresholds[called_present / n_present >= target][-1])


def diagnostic(called: np.ndarray, positive: np.ndarray, patients: np.ndarray) -> dict[str, Estimate]:
    """How often calls are right, seen from the finding and seen from the call.

    Args:
        called: (N,) bool, True where the film is called positive.
        positive: (N,) bool, True where the finding is present.
        patients: (N,) the patient of each film.

    Returns:
        `sensitivity`, `specificity`, `ppv` and `npv`, each on its own films and NaN where it has none. The predictive values hold at the prevalence of
        these films only; `predictive_values` carries them elsewhere.

    >>> called, positive = np.array([False, True, True, True]), np.array([False, False, True, True])
    >>> {name: round(estimate.value, 3) for name, estimate in diagnostic(called, positive, np.arange(4)).items()}
    {'sensitivity': 1.0, 'specificity': 0.5, 'ppv': 0.667, 'npv': 1.0}
    """
    return {
        "sensitivity": clustered_wilson(called[positive], patients[positive]),
        "specificity": clustered_wilson(~called[~positive], patients[~positive]),
        "ppv": clustered_wilson(positive[called], patients[called]),
        "npv": clustered_wilson(~positive[~called], patients[~called]),
    }


def predictive_values(sensitivity: Estimate, specificity: Estimate, prevalence: float) -> tuple[Estimate, Estimate]:
    """Positive and negative predictive value where the finding has another prevalence (Bayes).

    The intervals come from those of sensitivity and specificity, by MOVER for the ratio of two independent numbers (Donner & Zou 2012). They are
    independent as far as no patient has films with and without the finding. The prevalence is taken as known.

    Args:
        sensitivity, specificity: with intervals of one level, which is then the level of the result.
        prevalence: strictly between 0 and 1.

    Returns:
        Positive and negative predictive value; NaN where no film would ever get the call.

    Raises:
        ValueError: the prevalence is not between 0 and 1.

    >>> ppv, npv = predictive_values(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.85, 0.95), 0.1)
    >>> [round(number, 3) for number in ppv], [round(number, 3) for number in npv]
    ([0.471, 0.367, 0.642], [0.976, 0.964, 0.988])
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"a prevalence lies between 0 and 1, not at {prevalence}")
    missed = Estimate(1 - sensitivity.value, 1 - sensitivity.hi, 1 - sensitivity.lo)
    false_alarms = Estimate(1 - specificity.value, 1 - specificity.hi, 1 - specificity.lo)
    return _share(sensitivity, false_alarms, prevalence), _share(specificity, missed, 1 - prevalence)


def _share(right: Estimate, wrong: Estimate, weight: float) -> Estimate:
    """The share of right calls among all calls of one kind, where a film that could be called right comes up with the weight."""
    total = weight * right.value + (1 - weight) * wrong.value
    if np.isnan(total) or total == 0:
        return Estimate(np.nan, np.nan, np.nan)
    value = weight * right.value / total
    lo, hi = _lowest_share(right, wrong, weight), 1 - _lowest_share(wrong, right, 1 - weight)
    # rounding must not push an end past the value
    return Estimate(value, min(lo, value), max(hi, value))


def _lowest_share(right: Estimate, wrong: Estimate, weight: float) -> float:
    """The lower end of `_share`.

    Donner & Zou's lower limit of right / wrong, r, solves b r^2 - 2 right wrong r + a = 0. Written with the conjugate root below the line it
    needs no division by b, which vanishes or turns negative where `wrong` is near 0.
    """
    a = right.lo * (2 * right.value - right.lo)
    b = wrong.hi * (2 * wrong.value - wrong.hi)
    product = right.value * wrong.value
    root = float(np.sqrt(max(0.0, product**2 - a * b)))
    return weight * a / (weight * a + (1 - weight) * (product + root)) if a > 0 else 0.0
