"""Predictions and labels in, numbers out: the content of report.json. Knows nothing of how the model was trained."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.cohort.findings import NIH_FINDINGS
from cxr.report.predictions import Predictions
from cxr.stats.bootstrap import Bootstrapped, bootstrap, logit_interval
from cxr.stats.ranking import auroc, average_precision

# a finding with fewer positive patients is reported, and left out of the mean over findings
MIN_POSITIVE_PATIENTS = 20


def evaluate(
    predictions: Predictions, references: Mapping[str, pd.DataFrame], *, n_listed: Mapping[str, int], n_draws: int, seed: int, macro_available: bool
) -> dict[str, Any]:
    """Every reference set against the predictions.

    Args:
        predictions: of one model.
        references: reference set -> image_id, patient_id, view, age, and a column per finding (1, 0, NaN where unknown), complete: with the images
            that were not predicted.
        n_listed: reference set -> how many images the set has by its official list, labelled or not.
        n_draws: patient-bootstrap draws.
        seed: of the draws; the same patients are drawn for every finding of a set.
        macro_available: take the mean over what the present images allow, flagged.

    Returns:
        reference set -> its part of report.json.
    """
    sets = {}
    for name, reference in references.items():
        joined = reference.merge(predictions.table.drop(columns=["patient_id", "split"]), on="image_id", validate="one_to_one")
        findings = [column for column in NIH_FINDINGS if column in reference.columns]
        results, draws = {}, {}
        for finding in tqdm(findings, desc=f"evaluating {name}", unit="finding", disable=None, leave=False):
            results[finding], draws[finding] = _one_finding(joined, finding, predictions.findings, n_draws=n_draws, seed=seed)
        sets[name] = {
            "n_images": len(joined),
            "n_patients": int(joined.patient_id.nunique()),
            "n_missing_images": n_listed[name] - len(joined),
            "views": {view: int(count) for view, count in joined.view.value_counts().sort_index().items()},
            "ages": _quantiles(joined.age),
            "findings": results,
            "macro": _macro(reference, results, draws, predictions.findings, macro_available),
        }
    return sets


def estimate(result: Bootstrapped) -> dict[str, float]:
    return {"value": result.value, "lo": result.lo, "hi": result.hi}


def _one_finding(joined: pd.DataFrame, finding: str, predicted: list[str], *, n_draws: int, seed: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """The numbers of one finding, and its AUROC in every draw for the mean over findings."""
    known = joined[joined[finding].notna()]
    positive = known[finding].to_numpy() == 1
    per_patient = known.patient_id[positive].value_counts()
    result: dict[str, Any] = {
        "n_pos": int(positive.sum()),
        "n_neg": int((~positive).sum()),
        "n_unknown": len(joined) - len(known),
        "n_pos_patients": len(per_patient),
        "largest_patient_share": float(per_patient.iloc[0] / positive.sum()) if len(per_patient) else None,
        "prevalence": float(positive.mean()) if len(positive) else None,
    }
    reason = None
    if finding not in predicted:
        reason = "not predicted by this model"
    elif not positive.any():
        reason = "no positive image"
    elif positive.all():
        reason = "no negative image"
    if reason:
        return result | {"auroc": None, "auprc": None, "reason": reason}, None

    scores, patients = known[f"logit_{finding}"].to_numpy(np.float64), known.patient_id.to_numpy()
    area = bootstrap(auroc, scores, positive, patients, n_draws=n_draws, seed=seed)
    precision = bootstrap(average_precision, scores, positive, patients, n_draws=n_draws, seed=seed)
    return result | {"auroc": estimate(area), "auprc": estimate(precision), "n_redrawn": area.n_redrawn}, area.draws


def _macro(
    reference: pd.DataFrame, results: Mapping[str, Any], draws: Mapping[str, np.ndarray | None], predicted: list[str], available: bool
) -> dict[str, Any]:
    """The mean AUROC over a list of findings that the complete labels fix, so that missing images cannot choose it."""
    listed, left_out = [], {}
    for finding in results:
        n_patients = reference.patient_id[reference[finding] == 1].nunique()
        if finding not in predicted:
            left_out[finding] = "not predicted by this model"
        elif n_patients < MIN_POSITIVE_PATIENTS:
            left_out[finding] = _too_few(n_patients)
        else:
            listed.append(finding)
    short = {f: _too_few(n, " are present") for f in listed if (n := results[f]["n_pos_patients"]) < MIN_POSITIVE_PATIENTS}
    if short and not available:
        reason = f"missing images leave {', '.join(short)} with fewer than {MIN_POSITIVE_PATIENTS} positive patients"
        hint = "macro.available=true takes the mean over the others, flagged"
        return {"auroc": None, "findings": listed, "left_out": left_out, "reason": reason, "hint": hint}
    used = [finding for finding in listed if finding not in short and draws[finding] is not None]
    if not used:
        return {"auroc": None, "findings": [], "left_out": left_out | short, "reason": f"no finding has {MIN_POSITIVE_PATIENTS} positive patients"}
    value = float(np.mean([results[finding]["auroc"]["value"] for finding in used]))
    n_deciding = min(results[finding]["n_pos_patients"] for finding in used)
    # one draw of patients serves all findings, so the draws of the mean are the means of the draws
    lo, hi = logit_interval(value, np.mean(_drawn(draws, used), axis=0), n_deciding)
    macro = {"auroc": {"value": value, "lo": lo, "hi": hi}, "findings": used, "left_out": left_out | short}
    return macro | ({"available_only": True} if short else {})


def _too_few(n_patients: int, where: str = "") -> str:
    return f"{n_patients} positive patient{'s' * (n_patients != 1)}{where}, fewer than {MIN_POSITIVE_PATIENTS}"


def _drawn(draws: Mapping[str, np.ndarray | None], findings: Iterable[str]) -> list[np.ndarray]:
    return [drawn for finding in findings if (drawn := draws[finding]) is not None]


def _quantiles(ages: "pd.Series[float]") -> dict[str, float | None]:
    if ages.empty:
        return {"min": None, "median": None, "max": None}
    return {"min": float(ages.min()), "median": float(ages.median()), "max": float(ages.max())}
