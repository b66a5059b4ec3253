"""How well whoever says yes or no, a radiologist or a text miner, agrees with a reference. Shared by the label audit and the model's report."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cxr.cohort.findings import HEDGE
from cxr.stats.bootstrap import FEW_PATIENTS
from cxr.stats.operating import diagnostic

# an uncertain read counts as no, as yes, or is left out
HEDGE_POLICIES = ("no", "yes", "drop")
UNCERTAIN_AS = {"no": 0.0, "yes": 1.0, "drop": np.nan}
# why a number is undefined: it is a share of nothing
UNDEFINED = {"sensitivity": "no positive image", "specificity": "no negative image", "ppv": "never called present", "npv": "never called absent"}


class WithInterval(Protocol):
    """A number and the ends of its interval, however it was computed."""

    @property
    def value(self) -> float: ...

    @property
    def lo(self) -> float: ...

    @property
    def hi(self) -> float: ...


def estimate(result: WithInterval) -> dict[str, float] | None:
    """A number as the reports write it; None where it, or how sure it is, is undefined."""
    numbers = {"value": float(result.value), "lo": float(result.lo), "hi": float(result.hi)}
    return None if np.isnan(list(numbers.values())).any() else numbers


def too_few_patients(positive: np.ndarray, patients: np.ndarray) -> str | None:
    """Why a class is too small for a number that resampling could vouch for; None where neither is.

    >>> too_few_patients(np.array([True, False, False]), np.array([7, 8, 9]))
    'too few: 1 positive patient, fewer than 10'
    """
    for side, films in (("positive", positive), ("negative", ~positive)):
        n_patients = np.unique(patients[films]).size
        if n_patients < FEW_PATIENTS:
            return f"too few: {n_patients} {side} patient{'s' * (n_patients != 1)}, fewer than {FEW_PATIENTS}"
    return None


def calls(reads: "pd.Series[float]", policy: str) -> "pd.Series[float]":
    """Reads as yes and no.

    Args:
        reads: 1, 0, HEDGE or NaN.
        policy: one of HEDGE_POLICIES.

    >>> calls(pd.Series([1.0, 0.5, 0.0]), "yes").tolist(), calls(pd.Series([1.0, 0.5, 0.0]), "drop").tolist()
    ([1.0, 1.0, 0.0], [1.0, nan, 0.0])
    """
    return reads.mask(reads == HEDGE, UNCERTAIN_AS[policy])


def performance(called: np.ndarray, reference: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Sensitivity, specificity and predictive values with their counts.

    Args:
        called, reference: (N,) 1, 0 or NaN; a film that is unknown on either side is left out and counted.
        patients: (N,) the patient of each film.

    Returns:
        n_images, n_left_out, n_pos, n_neg, n_pos_patients, n_called, and the four as {"value", "lo", "hi"}, or None with the "reason".
    """
    known = ~(np.isnan(called) | np.isnan(reference))
    said, positive = called[known] == 1, reference[known] == 1
    estimates = {name: estimate(result) for name, result in diagnostic(said, positive, patients[known]).items()}
    missing = [UNDEFINED[name] for name, number in estimates.items() if number is None]
    return counts(known, reference, patients) | {"n_called": int(said.sum())} | estimates | ({"reason": "; ".join(missing)} if missing else {})


def counts(known: np.ndarray, reference: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    """How many films and patients stand behind a number, of those in `known` (N,), and how many films were left out."""
    positive = known & (reference == 1)
    return {
        "n_images": int(known.sum()),
        "n_left_out": int((~known).sum()),
        "n_pos": int(positive.sum()),
        "n_neg": int((known & (reference == 0)).sum()),
        "n_pos_patients": int(np.unique(patients[positive]).size),
    }


def reader_performance(reads: pd.DataFrame, labels: pd.DataFrame, findings: Sequence[str], *, hedge: str) -> dict[str, Any]:
    """Every reader of a reference set against it, and all of their reads together.

    Args:
        reads: image_id, patient_id, reader_id and a column per finding (1, 0, HEDGE, NaN), each reader and film once.
        labels: image_id and the same findings (1, 0, NaN); may hold part of the films, and only those are used.
        findings: which ones.
        hedge: what an uncertain read counts as, one of HEDGE_POLICIES.

    Returns:
        {"pooled": {finding: numbers}, "by_reader": {reader_id: {finding: numbers}}}, who read most first. Pooled, a film counts as often as it was read:
        n_reads says how often in all, n_pos and n_neg count reads, n_images films.
    """
    joined = reads.merge(labels[["image_id", *findings]], on="image_id", suffixes=("", "_reference"), validate="many_to_one")
    n_read = joined.reader_id.value_counts()
    readers = sorted(n_read.index, key=lambda reader: (-n_read[reader], reader))

    def numbers(rows: pd.DataFrame, finding: str) -> dict[str, Any]:
        called, reference = calls(rows[finding], hedge).to_numpy(), rows[f"{finding}_reference"].to_numpy()
        return performance(called, reference, rows.patient_id.to_numpy())

    def pooled(finding: str) -> dict[str, Any]:
        leaf = numbers(joined, finding)
        used = calls(joined[finding], hedge).notna() & joined[f"{finding}_reference"].notna()
        return leaf | {"n_images": int(joined.image_id[used].nunique()), "n_reads": leaf["n_images"]}

    of = {reader: joined[joined.reader_id == reader] for reader in readers}
    return {
        "pooled": {finding: pooled(finding) for finding in findings},
        "by_reader": {reader: {finding: numbers(rows, finding) for finding in findings} for reader, rows in of.items()},
    }
