"""The label audit's pictures: text-mined labels against radiologists, every reader in ROC space, and how common each finding is where. No film is drawn."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from cxr.cohort.experts import HELD_OUT
from cxr.report.drawing import (
    BLUE,
    COLOURS,
    DASHED,
    GREY,
    INK,
    LEFT,
    PALE,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
    forest_axes,
    frame,
    interval_bar,
    square_panels,
)
from cxr.report.wording import NAMES, spell

# fewer positive patients than this: drawn hollow
FEW_PATIENTS = 20
# a reader of fewer films of a set is in audit.json and not drawn
MIN_READS = 100

SETS = ("all_findings_test", "four_findings_test", "four_findings_validation")
SPLIT_NAMES = {"train": "NIH train", "val": "NIH val", "test": "NIH test"} | {name: NAMES[name] for name in SETS}
MEASURES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "kappa": "Cohen's kappa"}

Numbers = Mapping[str, Any]


def draw(folder: Path, audit: Numbers) -> dict[str, Path]:
    """Draws the audit.

    Args:
        folder: where the PNGs go.
        audit: the content of audit.json.

    Returns:
        title -> PNG in reading order.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "text_mined": text_mined_labels(audit["nih_labels"]),
            "readers_all_findings": readers_all_findings(audit),
            "readers_four_findings": readers_four_findings(audit),
            "prevalences": prevalences(audit["prevalences"]),
        }
        for title, figure in figures.items():
            figure.savefig(folder / f"{title}.png", metadata={"Software": None})
    return {title: folder / f"{title}.png" for title in figures}


# --- text-mined labels ------------------------------------------------------------------------------------------------------------------------------


def text_mined_labels(nih_labels: Numbers) -> Figure:
    """A column per measure, a row per finding of every reference set, those best detected first."""
    rows: list[tuple[str, str, Numbers] | None] = []
    titles = {}
    for name in SETS:
        titles[len(rows)] = name
        told = [(finding, leaf) for finding, leaf in nih_labels[name].items() if leaf["sensitivity"] or leaf["specificity"]]
        told.sort(key=lambda item: -(item[1]["sensitivity"] or {"value": -1.0})["value"])
        rows += [None, *((name, finding, leaf) for finding, leaf in told)]

    height = 0.29 * len(rows) + 1.0
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=0.08, wspace=0.06))
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    lowest = min([0.0, *(row[2]["kappa"]["lo"] for row in rows if row and row[2]["kappa"])])
    for panel, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for y, row in enumerate(rows):
            if row is None:
                continue
            name, _, leaf = row
            interval_bar(panel, y, leaf[measure], COLOURS[name], marker="o", filled=leaf["n_pos_patients"] >= FEW_PATIENTS)
        forest_axes(panel, title)
        left = math.floor(lowest * 10) / 10 if measure == "kappa" else 0.0
        if measure == "kappa":
            panel.axvline(0, **DASHED)
        panel.set(xlim=(left, 1.0), ylim=(len(rows) - 0.4, -0.4), xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "0.25", "0.5", "0.75", "1"])
    first = panels[0]
    first.set_yticks([y for y, row in enumerate(rows) if row], [spell(row[1]) for row in rows if row])
    first.tick_params(axis="y", pad=46)
    for y, row in enumerate(rows):
        if row:
            first.text(-0.05, y, f"{row[2]['n_pos']:,}", transform=first.get_yaxis_transform(), color=GREY, ha="right", va="center_baseline")
    for y, name in titles.items():
        first.text(-0.05, y, NAMES[name], transform=first.get_yaxis_transform(), ha="right", va="center", fontweight="bold", color=COLOURS[name])
    note = f"Beside each finding: films that have it by the radiologists. Bars: 95 % intervals. Hollow: on fewer than {FEW_PATIENTS} patients. Dashed: chance."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return figure


# --- readers ----------------------------------------------------------------------------------------------------------------------------------------


COLUMNS = 4  # of panels in ROC space
MARK: dict[str, Any] = {"linestyle": "none", "clip_on": False}
EDGED: dict[str, Any] = MARK | {"markeredgecolor": "white", "markeredgewidth": 0.8}
MINED = EDGED | {"marker": "X", "markersize": 10, "color": VERMILION, "zorder": 6}
POOLED = EDGED | {"marker": "P", "markersize": 10, "color": INK, "zorder": 5}
# the two readers differ too much to be drawn alike
HELD_OUT_MARKS = {
    reader: EDGED | {"marker": "D", "markersize": 7.5, "color": colour, "zorder": 4} for reader, colour in zip(HELD_OUT, (BLUE, SKY), strict=True)
}
PART_OF_IT = MARK | {"marker": "o", "markersize": 7, "color": GREY, "markerfacecolor": "white", "markeredgewidth": 1.3, "zorder": 3}


def readers_all_findings(audit: Numbers) -> Figure:
    """A panel per finding of the all-findings set: three readers who made the reference, two who did not, and the text-mined label."""
    name = "all_findings_test"
    told, mined = audit["readers"][name], audit["nih_labels"][name]
    note = (
        "All findings, test. Higher finds more, further left gives fewer false alarms. Crosses: 95 % intervals. The reference is the majority of three of the\n"
        "readers, who look better than they are for it. The two held-out readers had no part in it: theirs is a fair comparison, with these two readers."
    )
    figure, panels = _panels([(name, finding) for finding in mined], audit["nih_labels"], note, legend=0.45)
    drawn = [leaf for of in told["by_reader"].values() for leaf in of.values()] + list(mined.values())
    _share_scale(panels, drawn)
    for panel, (finding, leaf) in zip(panels, mined.items(), strict=True):
        for reader, of in told["by_reader"].items():
            if of[finding]["n_images"] >= MIN_READS:
                _point(panel, of[finding], HELD_OUT_MARKS.get(reader, PART_OF_IT), cross=reader in HELD_OUT)
        _point(panel, told["pooled"][finding], POOLED)
        _point(panel, leaf, MINED, cross=True)
    marks = {
        "Text-mined label": MINED,
        **{f"Held-out reader {reader}": mark for reader, mark in HELD_OUT_MARKS.items()},
        "All reads together": POOLED,
        "Reader who made the reference: optimistic": PART_OF_IT,
    }
    _legend(figure, marks, note)
    return figure


def readers_four_findings(audit: Numbers) -> Figure:
    """A row of panels per four-findings set; a reader's circle grows with the films read, its tail leads to where uncertain reads count as yes."""
    names = [name for name in SETS if name != "all_findings_test"]
    pairs = [(name, finding) for name in names for finding in audit["nih_labels"][name]]
    note = (
        "Each circle is a reader, larger: read more films. Higher finds more, further left gives fewer false alarms. An uncertain read counts as no;\n"
        f"a circle's tail ends where it would count as yes. Readers of fewer than {MIN_READS} films are not drawn. Cross: 95 % intervals."
    )
    figure, panels = _panels(pairs, audit["nih_labels"], note, legend=0.25, above=1.2)
    drawn = [leaf for name in names for of in audit["readers"][name]["yes"]["by_reader"].values() for leaf in of.values() if leaf["n_images"] >= MIN_READS]
    _share_scale(panels, [*drawn, *(audit["nih_labels"][name][finding] for name, finding in pairs)])
    for panel, (name, finding) in zip(panels, pairs, strict=True):
        as_no, as_yes = audit["readers"][name]["no"], audit["readers"][name]["yes"]
        for reader, of in as_no["by_reader"].items():
            leaf, tail = of[finding], as_yes["by_reader"][reader][finding]
            if leaf["n_images"] >= MIN_READS and leaf["sensitivity"]:
                size = 4 + 0.25 * leaf["n_images"] ** 0.5
                _point(panel, leaf, PART_OF_IT | {"markersize": size})
                panel.plot(*zip(_place(leaf), _place(tail), strict=True), color=GREY, linewidth=0.9, zorder=2, clip_on=False)
        _point(panel, as_no["pooled"][finding], POOLED)
        _point(panel, audit["nih_labels"][name][finding], MINED, cross=True)
    marks = {"Text-mined label": MINED, "Reader whose reads led to the reference: optimistic": PART_OF_IT, "All reads together": POOLED}
    _legend(figure, marks, note)
    for panel, (name, _) in list(zip(panels, pairs, strict=True))[::COLUMNS]:
        panel.text(0, 1.34, NAMES[name], transform=panel.transAxes, fontsize=11, fontweight="bold", color=COLOURS[name])
    return figure


def _panels(pairs: Sequence[tuple[str, str]], mined: Numbers, note: str, *, legend: float, above: float = 0.95) -> tuple[Figure, list[Axes]]:
    """Panels in ROC space, one per (reference set, finding), with the counts behind each and the text-mined label's numbers above."""
    figure, panels = square_panels(len(pairs), columns=COLUMNS, note=note, legend=legend, above=above)
    for i, (panel, (name, finding)) in enumerate(zip(panels, pairs, strict=True)):
        leaf = mined[name][finding]
        told = [f"{leaf['n_pos']:,} films of {leaf['n_pos_patients']:,} patients have it", f"text mining: {leaf.get('reason', '')}"]
        if leaf["sensitivity"] and leaf["specificity"]:
            told[1] = f"text mining: sens. {leaf['sensitivity']['value']:.2f}, spec. {leaf['specificity']['value']:.2f}"
        outer = {"left": i % COLUMNS == 0, "bottom": i + COLUMNS >= len(pairs)}
        frame(panel, spell(finding), "\n".join(told), **outer, labels=("1 − specificity", "Sensitivity"))
        panel.set(ylim=(-0.03, 1.03), yticks=[0, 0.25, 0.5, 0.75, 1], yticklabels=["0", "0.25", "0.5", "0.75", "1"])
        panel.tick_params(labelbottom=True)
    return figure, panels


def _share_scale(panels: Sequence[Axes], leaves: Sequence[Numbers]) -> None:
    """All panels reach as far right as the most false alarms that anybody gives, so that they can be compared."""
    most = max((1 - leaf["specificity"]["lo"] for leaf in leaves if leaf["specificity"]), default=0.5)
    tenths = min(10, math.ceil(10 * most))
    ticks = [tenth / 10 for tenth in range(0, tenths + 1, 1 if tenths <= 5 else 2)]
    for panel in panels:
        # a little room beside 0, for marks that lie there
        panel.set(xlim=(-0.02 * tenths / 10, 1.02 * tenths / 10), xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])


def _place(leaf: Numbers) -> tuple[float, float]:
    return 1 - leaf["specificity"]["value"], leaf["sensitivity"]["value"]


def _point(panel: Axes, leaf: Numbers, mark: Mapping[str, Any], *, cross: bool = False) -> None:
    """One reader's mark; nothing where sensitivity or specificity is undefined."""
    if leaf["sensitivity"] is None or leaf["specificity"] is None:
        return
    x, y = _place(leaf)
    panel.plot(x, y, **mark)
    if cross:
        line = {"color": mark["color"], "linewidth": 1.2, "alpha": 0.55, "zorder": 2, "clip_on": False}
        panel.plot([1 - leaf["specificity"]["hi"], 1 - leaf["specificity"]["lo"]], [y, y], **line)
        panel.plot([x, x], [leaf["sensitivity"]["lo"], leaf["sensitivity"]["hi"]], **line)


def _legend(figure: Figure, marks: Mapping[str, Mapping[str, Any]], note: str) -> None:
    """What each mark is, under the note."""
    height = figure.get_size_inches()[1]
    handles = [Line2D([], [], **{key: value for key, value in mark.items() if key not in ("zorder", "clip_on")}, label=label) for label, mark in marks.items()]
    box = ((LEFT - 0.1) / WIDTH, 1 - (0.15 + 0.2 * len(note.splitlines())) / height)
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=box, ncols=3, frameon=False, borderpad=0, handletextpad=0.2, columnspacing=1.4)


# --- prevalences ------------------------------------------------------------------------------------------------------------------------------------


VIEW_TITLES = {"PA": "PA films (standing)", "AP": "AP films (bedside)", "all": "All films"}


def prevalences(told: Numbers) -> Figure:
    """A column per view, a row per finding, a mark per split and reference set: dots by text mining, diamonds by the radiologists."""
    findings = list(told["train"]["all"])
    split_colours = {"train": INK, "val": SKY, "test": BLUE} | {name: COLOURS[name] for name in SETS}
    share = {finding: (told["train"]["all"][finding]["text_mined"] or {"value": -1.0})["value"] for finding in findings}
    findings.sort(key=lambda finding: -share[finding])
    figure = Figure(figsize=(WIDTH, 0.36 * len(findings) + 1.5), layout=ConstrainedLayoutEngine(h_pad=0.08, wspace=0.05))
    panels = figure.subplots(1, len(VIEW_TITLES), sharey=True)
    ticks = [0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
    for panel, (view, title) in zip(panels, VIEW_TITLES.items(), strict=True):
        panel.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        for y, finding in enumerate(findings):
            for k, (name, colour) in enumerate(split_colours.items()):
                leaf = told[name][view][finding]
                place = y + (k - 2.5) * 0.12
                mark: dict[str, Any] = {"color": colour, "linestyle": "none", "clip_on": False}
                if leaf.get("text_mined"):
                    panel.plot(leaf["text_mined"]["value"], place, marker="o", markersize=4.5, **mark)
                if leaf.get("reference"):
                    panel.plot(leaf["reference"]["value"], place, marker="D", markersize=5.5, markerfacecolor="white", markeredgewidth=1.3, **mark)
        for y in range(1, len(findings)):
            panel.axhline(y - 0.5, color=PALE, linewidth=0.6)
        panel.set(xlim=(0, 0.85), ylim=(len(findings) - 0.4, -0.6), xticks=ticks, xticklabels=[f"{100 * tick:.0f}" for tick in ticks])
        panel.set_xlabel("Share of films, %")
        forest_axes(panel, title)
    panels[0].set_yticks(range(len(findings)), [spell(finding) for finding in findings])
    handles = [Line2D([], [], marker="o", markersize=6, linestyle="none", color=colour, label=SPLIT_NAMES[name]) for name, colour in split_colours.items()]
    handles.append(Line2D([], [], marker="D", markersize=6, linestyle="none", color=GREY, markerfacecolor="white", label="radiologists' labels"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, handletextpad=0.1, columnspacing=1.2, fontsize=9)
    return figure
