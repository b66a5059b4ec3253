"""The curves of a report as numbers, for a page that draws them itself: ROC, precision-recall and reliability of every reference set."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxr.report.drawing import ROC_AXES, Part
from cxr.report.reference import ReferenceSet
from cxr.report.wording import spell
from cxr.stats.ranking import precision_recall_curve, roc_curve

POINTS = 150  # of a line, at most: of 25,596 films a curve has as many, and no eye sees them
PRECISION_RECALL_AXES = ("Recall (sensitivity)", "Precision")
CALIBRATION_AXES = ("Probability", "Observed")

Line = tuple[np.ndarray, np.ndarray]


class Chart(NamedTuple):
    """Lines in one frame.

    Attributes:
        title: words.
        axes: names of x and y.
        lines: finding -> (x, y), each (K,).
    """

    title: str
    axes: tuple[str, str]
    lines: dict[str, Line]


def charts(report: Mapping[str, Any], scores: Mapping[str, pd.DataFrame], references: Mapping[str, ReferenceSet]) -> dict[str, Chart]:
    """`<set>/roc`, `<set>/precision_recall` and `<set>/reliability` of every set that has numbers.

    Args:
        report: the content of report.json.
        scores: reference set -> the model's scores, indexed by image_id, a column per finding it speaks of.
        references: complete sets.
    """
    found = {}
    for name, part in report["reference_sets"].items():
        rows = {finding: row for finding, row in (part["findings"] or {}).items() if row["auroc"]}
        if not rows:
            continue
        known = {finding: films_of(finding, scores[name], references[name]) for finding in rows}
        reliable = {finding: _reliability(row) for finding, row in rows.items() if row.get("calibration", {}).get("before")}
        for kind, axes, lines in (
            ("roc", ROC_AXES, {finding: roc_curve(*films) for finding, films in known.items()}),
            ("precision_recall", PRECISION_RECALL_AXES, {finding: precision_recall_curve(*films) for finding, films in known.items()}),
            ("reliability", CALIBRATION_AXES, reliable),
        ):
            if lines:
                title = f"{spell(name)}: {kind.replace('_', '-').replace('roc', 'ROC')}"
                found[f"{name}/{kind}"] = Chart(title, axes, {finding: _thinned(line) for finding, line in lines.items()})
    return found


def films_of(finding: str, scores: pd.DataFrame, reference: ReferenceSet) -> tuple[np.ndarray, np.ndarray]:
    """Scores (K,) and positive (K,) bool of the films of a set whose label is known; they meet by image_id, never by order."""
    label = reference.films.set_index("image_id")[finding].loc[scores.index]
    known = label.notna()
    return scores[finding][known].to_numpy(), label[known].to_numpy() == 1


def _reliability(row: Part) -> Line:
    bins = row["calibration"]["before"]["bins"]
    return np.array([b["mean_probability"] for b in bins]), np.array([b["observed"]["value"] for b in bins])


def _thinned(line: Line) -> Line:
    kept = np.unique(np.linspace(0, line[0].size - 1, POINTS).round().astype(int)) if line[0].size > POINTS else slice(None)
    return line[0][kept], line[1][kept]
