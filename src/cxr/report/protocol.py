"""What is decided before any test prediction is read: mapping, thresholds, recalibration, primary endpoint and its comparisons, as one hashed piece.

A threshold or a mapping chosen after a look at the test set is chosen by it. So everything below is a function of validation predictions, labels and
configuration alone; its hash is written down, with the time, before the test predictions are opened; and the report counts how often that was done.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.atomic import write_whole
from cxr.report.mapping import FindingMapping
from cxr.report.predictions import Predictions
from cxr.report.reference import ReferenceSet
from cxr.stats.bootstrap import FEW_PATIENTS
from cxr.stats.calibration import platt
from cxr.stats.operating import choose_threshold

# a finding with fewer positive patients is reported, and left out of the mean over findings and of the primary family
MIN_POSITIVE_PATIENTS = 20
# thresholds from the radiologists' validation films: at least so many positive patients, none of them owning more than this share of the positive films
MIN_THRESHOLD_PATIENTS, MAX_PATIENT_SHARE = 30, 0.2
NO_MEAN = ("Abnormal", "Other")  # summaries of the other findings

VALIDATION, EXPERT_VALIDATION = "nih_val", "four_findings_validation"


class LooksError(ValueError):
    """The record of looks at the test set was changed."""


@dataclass(frozen=True)
class Frozen:
    """The evaluation protocol.

    Attributes:
        mapping: from logits to scores.
        content: everything that was decided, as plain values; see `freeze`.
        sha256: of the content.
    """

    mapping: FindingMapping
    content: dict[str, Any]
    sha256: str


def freeze(
    predictions: Predictions,
    references: Mapping[str, ReferenceSet],
    mapping: FindingMapping,
    *,
    targets: Mapping[str, float],
    primary_endpoint: str,
    settings: Mapping[str, Any],
) -> Frozen:
    """Decides everything that a test prediction could otherwise influence.

    Args:
        predictions: of validation films only.
        references: every set that will be reported, complete; of the test sets, only the labels are used, to fix lists of findings.
        mapping: from logits to scores.
        targets: specificity and sensitivity aimed at.
        primary_endpoint: in words.
        settings: draws, seeds and the like, to be hashed with the rest.

    Returns:
        content holds: mapping {method, members, probes}; macro {set: [findings], left_out}; primary_family {findings, readers}; and, per set and
        finding, operating_points {source, text_mined_target, n_pos_patients, rules {rule: {threshold, target}}} and recalibration {source,
        text_mined_target, slope, intercept, prevalence}, or {reason} where the validation films cannot carry them.
    """
    operating: dict[str, Any] = {}
    recalibration: dict[str, Any] = {}
    for name, reference in references.items():
        if name != VALIDATION:
            operating[name], recalibration[name] = _from_validation(predictions, references, reference, mapping, targets)
    lists = {name: macro_list(reference, predictions.findings, mapping) for name, reference in references.items()}
    family = list(lists["all_findings_test"][0]) if "all_findings_test" in references else []
    held_out = list(references["all_findings_test"].held_out) if "all_findings_test" in references else []
    content = {
        "primary_endpoint": primary_endpoint,
        "primary_family": {"set": "all_findings_test", "findings": family, "readers": held_out},
        "mapping": {
            "method": mapping.method,
            "members": mapping.members,
            "training_prevalence": mapping.prevalence,
            "probes": {
                finding: probe
                if isinstance(probe, str)
                else {"coefficients": probe.coefficients.tolist(), "intercept": probe.intercept, "C": probe.strength, "warnings": probe.warnings}
                for finding, probe in mapping.probes.items()
            }
            if mapping.method == "probe"
            else None,
        },
        "macro": {name: {"findings": listed, "left_out": left_out} for name, (listed, left_out) in lists.items()},
        "operating_points": operating,
        "recalibration": recalibration,
        "settings": dict(settings),
    }
    return Frozen(mapping, content, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def macro_list(reference: ReferenceSet, predicted: list[str], mapping: FindingMapping) -> tuple[list[str], dict[str, str]]:
    """The findings of a set's mean, fixed by its complete labels so that missing images cannot choose them; and why each other one is left out."""
    listed, left_out = [], {}
    for finding in reference.findings:
        n_patients = reference.films.patient_id[reference.films[finding] == 1].nunique()
        if not mapping.speaks_of(finding, reference, predicted):
            left_out[finding] = "not predicted by this model"
        elif finding in NO_MEAN:
            left_out[finding] = "a summary of the other findings"
        elif n_patients < MIN_POSITIVE_PATIENTS:
            left_out[finding] = too_few(n_patients)
        else:
            listed.append(finding)
    return listed, left_out


def too_few(n_patients: int, where: str = "") -> str:
    return f"{n_patients} positive patient{'s' * (n_patients != 1)}{where}, fewer than {MIN_POSITIVE_PATIENTS}"


# --- from validation films --------------------------------------------------------------------------------------------------------------------------


def _from_validation(
    predictions: Predictions, references: Mapping[str, ReferenceSet], reference: ReferenceSet, mapping: FindingMapping, targets: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(operating points, recalibration) of one set: from the radiologists' validation films where the set has such and they suffice, else from nih_val."""
    mined = references[VALIDATION]
    films = mined.films.drop(columns=[finding for finding in mined.findings if finding in mined.films]).join(mined.text_mined)
    findings = tuple(finding for finding in reference.findings if finding in mined.text_mined)
    text_mined = replace(mined, findings=reference.findings, films=films)
    sources = [(VALIDATION, text_mined, mapping.scores(predictions, text_mined), findings)]
    if reference.name == "four_findings_test" and EXPERT_VALIDATION in references:
        expert = references[EXPERT_VALIDATION]
        sources.insert(0, (EXPERT_VALIDATION, expert, mapping.scores(predictions, expert), expert.findings))

    operating: dict[str, Any] = {}
    recalibration: dict[str, Any] = {}
    for finding in reference.findings:
        reasons = {}
        for source, labelled, scores, known in sources:
            if finding not in scores:
                reasons[source] = "not predicted by this model"
                continue
            if finding not in known:
                reasons[source] = "no text-mined label"
                continue
            rows = labelled.films.set_index("image_id").loc[scores.index]
            rows, score = rows[rows[finding].notna()], scores.loc[rows[finding].notna(), finding].to_numpy()
            positive = rows[finding].to_numpy() == 1
            reason = _unfit(rows.patient_id[positive], rows.patient_id[~positive], strict=labelled.adjudicated)
            if reason:
                reasons[source] = reason
                continue
            chosen = {
                "source": source,
                "text_mined_target": not labelled.adjudicated,
                "n_images": len(rows),
                "n_pos_patients": int(rows.patient_id[positive].nunique()),
                "not_from": dict(reasons),
            }
            aims = {**targets, "youden": None}
            rules = {rule: {"target": aim, "threshold": choose_threshold(score, positive, rule=rule, target=aim)} for rule, aim in aims.items()}
            slope, intercept = platt(score, positive)
            operating[finding] = chosen | {"rules": rules}
            recalibration[finding] = chosen | {"slope": slope, "intercept": intercept, "prevalence": float(positive.mean())}
            break
        else:
            told = "; ".join(f"{source}: {reason}" for source, reason in reasons.items())
            operating[finding] = recalibration[finding] = {"source": None, "reason": told}
    return operating, recalibration


def _unfit(with_it: "pd.Series[int]", without: "pd.Series[int]", *, strict: bool) -> str | None:
    """Why validation films cannot carry a threshold; stricter for the radiologists' set, in which one patient owns 44 of 114 fracture films."""
    n_needed = MIN_THRESHOLD_PATIENTS if strict else FEW_PATIENTS
    n_patients = with_it.nunique()
    if n_patients < n_needed:
        return f"{n_patients} positive patient{'s' * (n_patients != 1)}, fewer than {n_needed}"
    if without.nunique() < FEW_PATIENTS:
        return f"too few negative patients: {without.nunique()}, fewer than {FEW_PATIENTS}"
    share = with_it.value_counts().iloc[0] / len(with_it)
    if strict and share > MAX_PATIENT_SHARE:
        return f"one patient owns {share:.0%} of the positive films, more than {MAX_PATIENT_SHARE:.0%}"
    return None


# --- looks ------------------------------------------------------------------------------------------------------------------------------------------


def record_look(path: Path, frozen: Frozen, *, checkpoint_sha256: str) -> dict[str, int]:
    """Writes down that the test predictions are about to be read, and under which protocol.

    Args:
        path: the run folder's looks.jsonl, a line per look.
        frozen: the protocol.
        checkpoint_sha256: whose predictions.

    Returns:
        n: looks so far, this one included; n_protocols: different protocols among them.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "evaluation_sha256": frozen.sha256, "checkpoint_sha256": checkpoint_sha256}
    looks = [*_looks(path), line]
    write_whole(path, "".join(json.dumps(look) + "\n" for look in looks).encode())
    return {"n": len(looks), "n_protocols": len({look["evaluation_sha256"] for look in looks})}


def _looks(path: Path) -> list[dict[str, str]]:
    """The lines so far; ValueError, with the file and the line, where one is no look."""
    if not path.is_file():
        return []
    looks = []
    for number, row in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            look = json.loads(row)
            look["evaluation_sha256"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LooksError(f"{path}, line {number}: no record of a look at the test set; nothing of this file may be changed by hand") from error
        looks.append(look)
    return looks
