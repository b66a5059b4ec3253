"""The pictures that hold a model against radiologists: everyone in one ROC space per finding, and who is ahead of whom. No film is drawn."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.report import drawing
from cxr.report.drawing import DASHED, GREEN, GREY, HELD_OUT, INK, MINED, PALE, PART_OF_IT, POINT, POOLED, ROC_AXES, WIDTH, Part
from cxr.report.reference import ReferenceSet
from cxr.report.wording import number, spell
from cxr.stats.bootstrap import FEW_PATIENTS
from cxr.stats.ranking import roc_curve

COLUMNS = 4
CAPTION = "Up: finds more. Left: fewer false alarms. Crosses: 95 % intervals."
HEDGED = "\nA larger circle read more films. Uncertain reads count as no; a circle's tail ends where they count as yes, its dot is where they are left out."


def readers(name: str, part: Part, scores: pd.DataFrame, reference: ReferenceSet) -> Figure:
    """A panel per finding: the model's ROC curve with its band and its operating point, every reader, the text-mined labels.

    The set's rows meet the scores by image_id, never by order.
    """
    films, findings = reference.films.set_index("image_id").loc[scores.index], part["findings"]
    told = part.get("readers") or {"performance": {}, "held_out": [], "shown": []}
    note = f"{spell(name)}, {part['n_images']:,} films of {part['n_patients']:,} patients. {CAPTION}{HEDGED if len(told['performance']) > 1 else ''}"
    figure, panels = drawing.square_panels(len(findings), columns=COLUMNS, note=note, labels=ROC_AXES, legend=0.5)
    for panel, (finding, row) in zip(panels, findings.items(), strict=True):
        words = f"AUROC {number(row['auroc'])}" if row["auroc"] else textwrap.shorten(f"no curve: {row['reason']}", 46)
        drawing.head(panel, spell(finding), f"{words}\n{row['n_pos']:,} films of {row['n_pos_patients']:,} patients have it")
        panel.set(xlim=(-0.025, 1.01), ylim=(-0.025, 1.01))  # room for marks on the axes
        panel.plot([0, 1], [0, 1], **DASHED)
        if row["auroc"]:
            _curve(panel, row, scores[finding], films[finding])
        if finding in part["text_mined_labels"]:
            drawing.draw_mark(panel, part["text_mined_labels"][finding], MINED, gid="text_mined", cross=True)
        if told["performance"]:
            drawing.draw_readers(panel, told, finding)
    looks: dict[str, Mapping[str, Any]] = {
        "The model and its 95 % band": {"color": GREEN, "linewidth": 1.8},
        "at its fixed threshold, where it has one": POINT,
        "Text-mined labels": MINED,
    }
    if told["shown"]:
        looks |= {f"Held-out reader {reader}": look for reader, look in zip(told["held_out"], HELD_OUT, strict=False)}
    if set(told["shown"]) - set(told["held_out"]):
        looks["Reader behind the reference"] = PART_OF_IT
    drawing.legend(figure, note, looks | {"All reads together": POOLED})
    return figure


def _curve(panel: Axes, row: Part, scores: "pd.Series[float]", labels: "pd.Series[float]") -> None:
    known = labels.notna()
    band, points = row["roc_band"], row["operating_points"]
    if row["n_pos_patients"] >= FEW_PATIENTS:  # fewer draw themselves over and over: a band of nearly no width
        panel.fill_between(band["false_positive_rate"], band["lo"], band["hi"], color=GREEN, alpha=0.18, linewidth=0, gid="band")
    panel.plot(*roc_curve(scores[known].to_numpy(), labels[known].to_numpy() == 1), color=GREEN, linewidth=1.8, gid="curve")
    if points["source"] is not None:
        drawing.draw_mark(panel, points["rules"][points["shown"]], POINT, gid="operating_point")


def differences(name: str, part: Part) -> Figure:
    """A row per finding, a bar per held-out reader: the model's sensitivity at that reader's specificity, less the reader's."""
    by_reader: dict[str, Part] = {reader: of for reader, of in part["readers"]["differences"]["by_reader"].items() if of}
    findings = list(dict.fromkeys(finding for of in by_reader.values() for finding in of))
    tested = {finding for of in by_reader.values() for finding, row in of.items() if row["in_primary_family"]}
    findings.sort(key=lambda finding: finding not in tested)  # and otherwise as they are
    drawn = [row["difference"] for of in by_reader.values() for row in of.values() if row["difference"]]
    left = min([-0.3, *(math.floor(10 * estimate["lo"]) / 10 for estimate in drawn)])
    right = max([0.3, *(math.ceil(10 * estimate["hi"]) / 10 for estimate in drawn)])

    note = (
        f"{spell(name)}. The model's sensitivity at the reader's specificity, less the reader's sensitivity. Bars: 95 % intervals.\n"
        "Filled: primary comparison, with Holm's p. Hollow: descriptive. In brackets: films that have the finding."
    )
    height = 0.42 * len(findings) + 1.9
    figure = Figure(figsize=(WIDTH, height))
    panel = figure.subplots()
    figure.subplots_adjust(left=2.0 / WIDTH, right=1 - 0.9 / WIDTH, bottom=0.45 / height, top=1 - 0.95 / height)
    panel.axvline(0, color=INK, linewidth=1.0)
    for y, finding in enumerate(findings):
        for k, of in enumerate(by_reader.values()):
            if finding in of:
                row, place = of[finding], y + 0.34 * (k - (len(by_reader) - 1) / 2)
                drawing.interval_bar(panel, place, row["difference"], HELD_OUT[k]["color"], marker="D", filled=row["in_primary_family"])
                p = f"{row['p_holm']:.4f}" if row["in_primary_family"] else ""
                panel.text(1.02, place, p, transform=panel.get_yaxis_transform(), color=GREY, va="center", fontsize=8.5)
    if tested and len(tested) < len(findings):
        panel.axhline(len(tested) - 0.5, color=PALE, linewidth=0.8)
    drawing.forest_axes(panel, "")
    counts = {finding: next(of[finding]["n_pos"] for of in by_reader.values() if finding in of) for finding in findings}
    panel.set_yticks(range(len(findings)), [f"{spell(finding)} ({counts[finding]:,})" for finding in findings])
    panel.set(xlim=(left, right), ylim=(len(findings) - 0.4, -1.1))
    for x, side, words in ((-0.015, "right", "← the reader finds more"), (0.015, "left", "the model finds more →")):
        panel.text(x * (right - left), -0.8, words, ha=side, va="center", color=INK)
    panel.text(1.02, -0.8, "Holm's p", transform=panel.get_yaxis_transform(), color=GREY, va="center", fontsize=8.5)
    drawing.write_note(figure, note)
    looks = zip(by_reader, HELD_OUT, strict=False)
    drawing.legend(figure, note, {f"Reader {reader}": {"marker": "D", "linestyle": "none", "color": look["color"]} for reader, look in looks})
    return figure
