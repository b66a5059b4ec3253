"""The label audit's pictures: text-mined labels against radiologists, every reader in ROC space, and how common each finding is where. No film is drawn."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from cxr.cohort.experts import HELD_OUT
from cxr.report import drawing
from cxr.report.beside_readers import MIN_READS
from cxr.report.drawing import BLUE, COLOURS, DASHED, GREY, INK, PALE, SKY, STYLE, WIDTH, Part
from cxr.report.expert_figures import CAPTION, COLUMNS, HEDGED
from cxr.report.wording import NAMES, spell

# fewer positive patients than this: drawn hollow
FEW_PATIENTS = 20
SETS = ("all_findings_test", "four_findings_test", "four_findings_validation")
SPLIT_NAMES = {"train": "NIH train", "val": "NIH val", "test": "NIH test"} | {name: NAMES[name] for name in SETS}
QUARTERS = [0, 0.25, 0.5, 0.75, 1]
MEASURES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "kappa": "Cohen's kappa"}


def draw(folder: Path, audit: Part) -> dict[str, Path]:
    """title -> PNG in reading order, of the content of audit.json."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "text_mined": text_mined_labels(audit["nih_labels"]),
            "readers_all_findings": readers(audit, SETS[:1]),
            "readers_four_findings": readers(audit, SETS[1:]),
            "prevalences": prevalences(audit["prevalences"]),
        }
        return drawing.save(folder, figures)


def text_mined_labels(nih_labels: Part) -> Figure:
    """A column per measure, a row per finding of every reference set, those best detected first."""
    rows: list[tuple[str, str, Part]] = []
    for name in SETS:
        told = [(name, finding, leaf) for finding, leaf in nih_labels[name].items() if leaf["sensitivity"] or leaf["specificity"]]
        told.sort(key=lambda row: -(row[2]["sensitivity"] or {"value": -1.0})["value"])
        rows += [(name, "", {}), *told]  # the first is the set's title
    figure = Figure(figsize=(WIDTH, 0.29 * len(rows) + 1.0), layout=ConstrainedLayoutEngine(h_pad=0.08, wspace=0.06))
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    lowest = min([0.0, *(leaf["kappa"]["lo"] for _, _, leaf in rows if leaf and leaf["kappa"])])
    for panel, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for y, (name, _, leaf) in enumerate(rows):
            if leaf:
                drawing.interval_bar(panel, y, leaf[measure], COLOURS[name], marker="o", filled=leaf["n_pos_patients"] >= FEW_PATIENTS)
        drawing.forest_axes(panel, title)
        if measure == "kappa":
            panel.axvline(0, **DASHED)
        left = math.floor(lowest * 10) / 10 if measure == "kappa" else 0.0
        panel.set(xlim=(left, 1.0), ylim=(len(rows) - 0.4, -0.4), xticks=QUARTERS, xticklabels=[f"{tick:g}" for tick in QUARTERS])
    first = panels[0]
    first.set_yticks(range(len(rows)), [spell(finding) for _, finding, _ in rows])
    first.tick_params(axis="y", pad=46)
    for y, (name, _, leaf) in enumerate(rows):
        look = {"color": GREY, "va": "center_baseline"} if leaf else {"color": COLOURS[name], "va": "center", "fontweight": "bold"}
        first.text(-0.05, y, f"{leaf['n_pos']:,}" if leaf else NAMES[name], transform=first.get_yaxis_transform(), ha="right", **look)
    note = f"Beside each finding: films that have it by the radiologists. Bars: 95 % intervals. Hollow: on fewer than {FEW_PATIENTS} patients. Dashed: chance."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return figure


def readers_of(audit: Part, name: str) -> Part:
    """Who read the set, as in report.json: performance under every policy for uncertain reads, who is held out, and who read enough to be shown."""
    told = audit["readers"][name]
    performance = told if "no" in told else {"no": told}
    shown = [reader for reader, of in performance["no"]["by_reader"].items() if max(leaf["n_images"] for leaf in of.values()) >= MIN_READS]
    return {"performance": performance, "shown": shown, "held_out": list(HELD_OUT) if name == "all_findings_test" else []}


def readers(audit: Part, names: Sequence[str]) -> Figure:
    """A panel per set and finding: everybody in ROC space, the readers and the text-mined label."""
    mined, told = audit["nih_labels"], {name: readers_of(audit, name) for name in names}
    pairs = [(name, finding) for name in names for finding in mined[name]]
    hedged = any(len(of["performance"]) > 1 for of in told.values())
    note = f"{CAPTION} Readers of fewer than {MIN_READS} films are not drawn.{HEDGED * hedged}"
    above = 1.2 if len(names) > 1 else 0.95
    figure, panels = drawing.square_panels(len(pairs), columns=COLUMNS, note=note, labels=drawing.ROC_AXES, legend=0.45, above=above)
    leaves = [mined[name][finding] for name, finding in pairs]
    drawn = [of["by_reader"][reader][finding] for name, finding in pairs for of in told[name]["performance"].values() for reader in told[name]["shown"]]
    # all panels reach as far right as the most false alarms that anybody gives, so that they can be compared
    most = max((1 - leaf["specificity"]["lo"] for leaf in [*drawn, *leaves] if leaf["specificity"]), default=0.5)
    tenths = min(10, math.ceil(10 * most))
    ticks = [tenth / 10 for tenth in range(0, tenths + 1, 1 if tenths <= 5 else 2)]
    for panel, (name, finding), leaf in zip(panels, pairs, leaves, strict=True):
        words = f"text mining: {leaf.get('reason', '')}"
        if leaf["sensitivity"] and leaf["specificity"]:
            words = f"text mining: sens. {leaf['sensitivity']['value']:.2f}, spec. {leaf['specificity']['value']:.2f}"
        drawing.head(panel, spell(finding), f"{leaf['n_pos']:,} films of {leaf['n_pos_patients']:,} patients have it\n{words}")
        panel.set(ylim=(-0.03, 1.03), yticks=QUARTERS, yticklabels=[f"{tick:g}" for tick in QUARTERS])
        # a little room beside 0, for marks that lie there
        panel.set(xlim=(-0.02 * tenths / 10, 1.02 * tenths / 10), xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])
        panel.tick_params(labelbottom=True)
        drawing.draw_readers(panel, told[name], finding)
        drawing.draw_mark(panel, leaf, drawing.MINED, gid="text_mined", cross=True)
        if len(names) > 1 and finding == next(iter(mined[name])):
            panel.text(0, 1.34, NAMES[name], transform=panel.transAxes, fontsize=11, fontweight="bold", color=COLOURS[name])
    looks = {f"Held-out reader {reader}": look for reader, look in zip(told[names[0]]["held_out"], drawing.HELD_OUT, strict=False)}
    looks = {"Text-mined labels": drawing.MINED, **looks, "All reads together": drawing.POOLED}
    drawing.legend(figure, note, looks | {"Reader behind the reference: optimistic": drawing.PART_OF_IT})
    return figure


VIEW_TITLES = {"PA": "PA films (standing)", "AP": "AP films (bedside)", "all": "All films"}


def prevalences(told: Part) -> Figure:
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
        drawing.forest_axes(panel, title)
    panels[0].set_yticks(range(len(findings)), [spell(finding) for finding in findings])
    handles = [Line2D([], [], marker="o", markersize=6, linestyle="none", color=colour, label=SPLIT_NAMES[name]) for name, colour in split_colours.items()]
    handles.append(Line2D([], [], marker="D", markersize=6, linestyle="none", color=GREY, markerfacecolor="white", label="radiologists' labels"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, handletextpad=0.1, columnspacing=1.2, fontsize=9)
    return figure
