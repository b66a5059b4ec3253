"""The pictures that hold a model against radiologists: everyone in one ROC space per finding, and who is ahead of whom. No film is drawn."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.report.drawing import BLUE, DASHED, GREEN, GREY, INK, LEFT, ORANGE, PALE, SKY, VERMILION, WIDTH, forest_axes, frame, interval_bar, square_panels
from cxr.report.reference import ReferenceSet
from cxr.report.wording import number, spell, spell_set
from cxr.stats.bootstrap import FEW_PATIENTS
from cxr.stats.ranking import roc_curve

COLUMNS = 4
AXES = ("1 − specificity", "Sensitivity")
CAPTION = "Up: finds more. Left: fewer false alarms. Crosses: 95 % intervals."
HEDGED = "\nA larger circle read more films. Uncertain reads count as no; a circle's tail ends where they count as yes, its dot is where they are left out."
MARK: dict[str, Any] = {"linestyle": "none", "clip_on": False, "markeredgecolor": "white", "markeredgewidth": 0.8}
MINED = MARK | {"marker": "X", "markersize": 9.5, "color": VERMILION, "zorder": 6}
POINT = MARK | {"marker": "s", "markersize": 8, "color": GREEN, "zorder": 7}
POOLED = MARK | {"marker": "P", "markersize": 8.5, "color": INK, "zorder": 5}
# the readers who had no part in the reference differ too much to be drawn alike
HELD_OUT = [MARK | {"marker": "D", "markersize": size, "color": colour, "zorder": 15 - size} for size, colour in ((9.0, BLUE), (7.0, SKY), (5.0, ORANGE))]
PART_OF_IT = MARK | {"marker": "o", "markersize": 7, "color": GREY, "markerfacecolor": "white", "markeredgecolor": GREY, "markeredgewidth": 1.3, "zorder": 4}
ELSEWHERE: dict[str, dict[str, Any]] = {"yes": {"linewidth": 1.0}, "drop": {"linestyle": "none", "marker": ".", "markersize": 5}}
# points: a reader of few films is drawn small
LEAST_MARK, MARK_PER_ROOT_FILM = 4.0, 0.17

Part = Mapping[str, Any]


def readers(name: str, part: Part, scores: pd.DataFrame, reference: ReferenceSet) -> Figure:
    """A panel per finding: the model's ROC curve with its band and its operating point, every reader, the text-mined labels.

    Args:
        name: of the reference set.
        part: its part of report.json.
        scores: of the model.
        reference: the set; rows meet the scores by image_id, never by order.
    """
    films, findings = reference.films.set_index("image_id").loc[scores.index], part["findings"]
    told = part.get("readers")
    held_out = told["held_out"] if told else []
    hedged = bool(told and len(told["performance"]) > 1)
    note = f"{spell_set(name)}, {part['n_images']:,} films of {part['n_patients']:,} patients. {CAPTION}{HEDGED if hedged else ''}"
    figure, panels = square_panels(len(findings), columns=COLUMNS, note=note, legend=0.5)
    for i, (panel, (finding, row)) in enumerate(zip(panels, findings.items(), strict=True)):
        counts = f"{row['n_pos']:,} films of {row['n_pos_patients']:,} patients have it"
        words = f"AUROC {number(row['auroc'])}" if row["auroc"] else textwrap.shorten(f"no curve: {row['reason']}", 46)
        frame(panel, spell(finding), f"{words}\n{counts}", left=i % COLUMNS == 0, bottom=i + COLUMNS >= len(findings), labels=AXES)
        panel.set(xlim=(-0.025, 1.01), ylim=(-0.025, 1.01))  # room for marks on the axes
        panel.plot([0, 1], [0, 1], **DASHED)
        if row["auroc"]:
            _curve(panel, row, scores[finding], films[finding])
        if finding in part["text_mined_labels"]:
            _mark(panel, part["text_mined_labels"][finding], MINED, gid="text_mined", cross=True)
        if told:
            _everybody(panel, told, finding, held_out)
    _legend(figure, held_out, note, has_readers=bool(told and told["shown"]), has_part=bool(told and set(told["shown"]) - set(held_out)))
    return figure


def _curve(panel: Axes, row: Part, scores: "pd.Series[float]", labels: "pd.Series[float]") -> None:
    known = labels.notna()
    band, points = row["roc_band"], row["operating_points"]
    if row["n_pos_patients"] >= FEW_PATIENTS:  # fewer draw themselves over and over: a band of nearly no width
        panel.fill_between(band["false_positive_rate"], band["lo"], band["hi"], color=GREEN, alpha=0.18, linewidth=0, gid="band")
    panel.plot(*roc_curve(scores[known].to_numpy(), labels[known].to_numpy() == 1), color=GREEN, linewidth=1.8, gid="curve")
    if points["source"] is not None:
        _mark(panel, points["rules"][points["shown"]], POINT, gid="operating_point")


def _everybody(panel: Axes, told: Part, finding: str, held_out: list[str]) -> None:
    as_no = told["performance"]["no"]
    _mark(panel, as_no["pooled"][finding], POOLED, gid="pooled")
    for reader in told["shown"]:
        leaf = as_no["by_reader"][reader][finding]
        if reader in held_out:
            _mark(panel, leaf, HELD_OUT[held_out.index(reader)], gid=f"held_out:{reader}", cross=True)
            continue
        size = LEAST_MARK + MARK_PER_ROOT_FILM * leaf["n_images"] ** 0.5
        _mark(panel, leaf, PART_OF_IT | {"markersize": size}, gid=f"reader:{reader}")
        for policy, look in ELSEWHERE.items():
            elsewhere = told["performance"].get(policy, as_no)["by_reader"][reader][finding]
            if _drawable(leaf) and _drawable(elsewhere) and _place(elsewhere) != _place(leaf):
                where = zip(_place(leaf), _place(elsewhere), strict=True) if policy == "yes" else [[place] for place in _place(elsewhere)]
                panel.plot(*where, **look, color=GREY, zorder=3, clip_on=False, gid=f"{policy}:{reader}")


def _drawable(leaf: Part) -> bool:
    return leaf["sensitivity"] is not None and leaf["specificity"] is not None


def _place(leaf: Part) -> tuple[float, float]:
    return 1 - leaf["specificity"]["value"], leaf["sensitivity"]["value"]


def _mark(panel: Axes, leaf: Part, look: Mapping[str, Any], *, gid: str, cross: bool = False) -> None:
    """Whoever said yes or no; nothing where sensitivity or specificity is undefined."""
    if not _drawable(leaf):
        return
    x, y = _place(leaf)
    panel.plot(x, y, **look, gid=gid)
    if cross:
        line = {"color": look["color"], "linewidth": 1.1, "alpha": 0.6, "zorder": 3, "clip_on": False}
        panel.plot([1 - leaf["specificity"]["hi"], 1 - leaf["specificity"]["lo"]], [y, y], **line)
        panel.plot([x, x], [leaf["sensitivity"]["lo"], leaf["sensitivity"]["hi"]], **line)


def _legend(figure: Figure, held_out: list[str], note: str, *, has_readers: bool, has_part: bool) -> None:
    marks: dict[str, Mapping[str, Any]] = {
        "The model and its 95 % band": {"color": GREEN, "linewidth": 1.8},
        "at its fixed threshold, where it has one": POINT,
        "Text-mined labels": MINED,
    }
    if has_readers:
        marks |= {f"Held-out reader {reader}": HELD_OUT[i] for i, reader in enumerate(held_out)}
    if has_part:
        marks["Reader behind the reference"] = PART_OF_IT
    marks["All reads together"] = POOLED
    handles = [Line2D([], [], **{key: value for key, value in mark.items() if key not in ("zorder", "clip_on")}, label=label) for label, mark in marks.items()]
    box = ((LEFT - 0.1) / WIDTH, 1 - (0.16 + 0.2 * len(note.splitlines())) / figure.get_size_inches()[1])
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=box, ncols=4, frameon=False, borderpad=0, handletextpad=0.4, columnspacing=1.4, fontsize=9)


# --- differences ------------------------------------------------------------------------------------------------------------------------------------


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
        f"{spell_set(name)}. The model's sensitivity at the reader's specificity, less the reader's sensitivity. Bars: 95 % intervals.\n"
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
                interval_bar(panel, place, row["difference"], HELD_OUT[k]["color"], marker="D", filled=row["in_primary_family"])
                p = f"{row['p_holm']:.4f}" if row["in_primary_family"] else ""
                panel.text(1.02, place, p, transform=panel.get_yaxis_transform(), color=GREY, va="center", fontsize=8.5)
    if tested and len(tested) < len(findings):
        panel.axhline(len(tested) - 0.5, color=PALE, linewidth=0.8)
    forest_axes(panel, "")
    counts = {finding: next(of[finding]["n_pos"] for of in by_reader.values() if finding in of) for finding in findings}
    panel.set_yticks(range(len(findings)), [f"{spell(finding)} ({counts[finding]:,})" for finding in findings])
    panel.set(xlim=(left, right), ylim=(len(findings) - 0.4, -1.1))
    for x, side, words in ((-0.015, "right", "← the reader finds more"), (0.015, "left", "the model finds more →")):
        panel.text(x * (right - left), -0.8, words, ha=side, va="center", color=INK)
    panel.text(1.02, -0.8, "Holm's p", transform=panel.get_yaxis_transform(), color=GREY, va="center", fontsize=8.5)
    figure.text(LEFT / WIDTH, 1 - 0.1 / height, note, ha="left", va="top", fontsize=9.5, color=GREY, linespacing=1.4)
    handles = [Line2D([], [], marker="D", linestyle="none", color=HELD_OUT[k]["color"], label=f"Reader {reader}") for k, reader in enumerate(by_reader)]
    box = ((LEFT - 0.1) / WIDTH, 1 - 0.55 / height)
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=box, ncols=len(handles), frameon=False, borderpad=0, handletextpad=0.2)
    return figure
