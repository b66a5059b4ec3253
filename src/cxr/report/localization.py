"""The numbers of localisation, from peaks and detected boxes: thresholds of heat chosen on half of the patients, overlaps told of the other half."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxr.cohort.boxes import CORNERS
from cxr.stats.bootstrap import Estimate
from cxr.stats.localization import (
    HEAT_THRESHOLDS,
    IOBB_THRESHOLDS,
    IOU_THRESHOLDS,
    best_threshold,
    box_share,
    detect,
    mean_by_patient,
    mean_difference_by_patient,
    overlap,
    peak,
    points_into,
)
from cxr.stats.operating import clustered_wilson

SOURCES = ("model", "centre", "random")
ALL = "All findings"
# a finding with fewer boxes in the first half takes the threshold of all findings together
LEAST_BOXES = 10


class Traces(NamedTuple):
    """What is left of N heat maps.

    Attributes:
        peaks: (N, 2) x, y; NaN where a map is empty.
        detected: (N, T, 4) corners at each of HEAT_THRESHOLDS; NaN likewise.
    """

    peaks: np.ndarray
    detected: np.ndarray


@dataclass(frozen=True)
class Shown:
    """A box that is to be looked at.

    Attributes:
        finding, which: what, and "best", "median" or "worst" by the IoU.
        index: of the box.
        detected: (4,) at the finding's threshold.
        peak: (2,)
        iou: of the two.
    """

    finding: str
    which: str
    index: int
    detected: np.ndarray
    peak: np.ndarray
    iou: float


class Results(NamedTuple):
    """The content of localization.json but for its protocol, and the boxes to look at."""

    content: dict[str, Any]
    shown: list[Shown]


def trace(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((2,) peak, (T, 4) detected boxes) of one map."""
    return peak(heat), np.stack([detect(heat, threshold) for threshold in HEAT_THRESHOLDS])


def evaluate(boxes: pd.DataFrame, traces: Mapping[str, Traces], *, side: int, n_draws: int, seed: int) -> Results:
    """Every number, per finding and over all boxes.

    Args:
        boxes: N rows: patient_id, finding, for_threshold (bool), and x, y, right, below in pixels of the network's input.
        traces: source ("model", "centre", "random") -> what is left of its N maps.
        side: of the input in pixels.
        n_draws, seed: of the patient bootstrap.
    """
    corners, patients = boxes[CORNERS].to_numpy(np.float64), boxes.patient_id.to_numpy()
    first = boxes.for_threshold.to_numpy(bool)
    scored = {source: [overlap(kept.detected[:, t], corners) for t in range(len(HEAT_THRESHOLDS))] for source, kept in traces.items()}
    overlaps = {source: np.stack([pair[0] for pair in pairs], axis=1) for source, pairs in scored.items()}
    purities = {source: np.stack([pair[1] for pair in pairs], axis=1) for source, pairs in scored.items()}
    hits = {source: points_into(kept.peaks, corners) for source, kept in traces.items()}
    share = box_share(corners, side)
    # which threshold each box is judged at: chosen where the box is not
    chosen = {source: np.zeros(len(boxes), int) for source in SOURCES}
    findings, shown = dict[str, Any](), list[Shown]()

    names = boxes.finding.to_numpy(str)
    members = {str(finding): np.flatnonzero(names == finding) for finding in np.unique(names)} | {ALL: np.arange(len(boxes))}
    for finding, index in members.items():
        choosing, judged = index[first[index]], index[~first[index]]
        alone = len(choosing) >= LEAST_BOXES or finding == ALL
        told: dict[str, Any] = {
            "n_boxes": len(index),
            "n_patients": len(np.unique(patients[index])),
            "n_empty_maps": int(np.isnan(traces["model"].peaks[index, 0]).sum()),
            "median_box_share": float(np.median(share[index])),
            "pointing": {source: _plain(clustered_wilson(hits[source][index], patients[index])) for source in SOURCES},
            "pointing_by_chance": float(share[index].mean()),
            "pointing_less_centre": _plain(
                mean_difference_by_patient(hits["model"][index], hits["centre"][index], patients[index], n_draws=n_draws, seed=seed)
            ),
            "n_boxes_for_threshold": len(choosing),
            "n_boxes_judged": len(judged),
            "n_patients_judged": len(np.unique(patients[judged])),
        }
        if finding != ALL:
            # of a finding with few boxes: of all findings together
            for source in SOURCES:
                candidates = overlaps[source][choosing if alone else first]
                chosen[source][index] = best_threshold(candidates) if len(candidates) else HEAT_THRESHOLDS.index(0.5)
            told["heat_threshold"] = {source: HEAT_THRESHOLDS[chosen[source][index[0]]] for source in SOURCES}
            told["threshold_of"] = finding if alone else ALL if first.any() else None
            shown += _extremes(finding, judged, overlaps["model"], chosen["model"], traces["model"])
        told["mean_iou"], told["hit_rate"] = {}, {}
        for source in SOURCES:
            iou, iobb = (values[source][judged, chosen[source][judged]] for values in (overlaps, purities))
            told["mean_iou"][source] = _plain(mean_by_patient(iou, patients[judged], n_draws=n_draws, seed=seed))
            told["hit_rate"][source] = {
                name: {f"{least:g}": _plain(clustered_wilson(values >= least, patients[judged])) for least in thresholds}
                for name, values, thresholds in (("iou", iou, IOU_THRESHOLDS), ("iobb", iobb, IOBB_THRESHOLDS))
            }
        findings[finding] = told
    return Results({"n_boxes": len(boxes), "findings": findings}, shown)


def _plain(estimate: Estimate) -> dict[str, float] | None:
    return None if np.isnan(estimate.value) else estimate._asdict()


def _extremes(finding: str, judged: np.ndarray, overlaps: np.ndarray, chosen: np.ndarray, kept: Traces) -> list[Shown]:
    """The best, the median and the worst box by IoU, of those that are judged; fewer where there are fewer."""
    ranked = judged[np.argsort(-overlaps[judged, chosen[judged]], kind="stable")]
    places = {"best": 0, "median": (len(ranked) - 1) // 2, "worst": len(ranked) - 1} if len(ranked) else {}
    once = {ranked[place]: which for which, place in reversed(places.items())}
    picked = [(which, k) for k, which in once.items()][::-1]
    return [Shown(finding, which, int(k), kept.detected[k, chosen[k]], kept.peaks[k], float(overlaps[k, chosen[k]])) for which, k in picked]
