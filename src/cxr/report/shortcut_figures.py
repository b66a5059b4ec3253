"""The pictures of the shortcut audit: the model by group of films, beside metadata alone, and what its features give away. No film is drawn."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.report import drawing
from cxr.report.drawing import BLUE, DASHED, GREEN, GREY, INK, ORANGE, SKY, WIDTH, Part
from cxr.report.wording import spell

TITLES = {"view": "View", "sex": "Sex", "age": "Age, years", "n_films": "Films of the patient"}
OTHERS = (ORANGE, GREEN, SKY)  # than the group that they are held against, which is blue
QUESTIONS = {"view": "AP or PA", "sex": "male or female", "age": "60 years and over"}
INPUTS = {"labels": (GREY, "text-mined labels"), "logits": (ORANGE, "the model's outputs"), "features": (BLUE, "the network's features")}


def groups(name: str, part: Part) -> Figure | None:
    """A column per kind of group, a row per finding: above, the AUROC in every group; below, the difference from the first. None where there is nothing."""
    told = {finding: row for finding, row in part["findings"].items() if "subgroup_differences" in row and _has_a_group(row)}
    if not told:
        return None
    columns = [column for column in (_metadata(told), *(_groups(kind, told) for kind in TITLES)) if column]
    rows = 0.27 * len(told) + 0.25
    above, between, below = 1.15, 1.0, 0.5  # inches
    height = above + 2 * rows + between + below
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(2, len(columns), squeeze=False, sharey=True)
    figure.subplots_adjust(left=1.55 / WIDTH, right=1 - 0.15 / WIDTH, bottom=below / height, top=1 - above / height, hspace=between / rows, wspace=0.2)
    for k, (title, colours, areas, differences) in enumerate(columns):
        upper, lower = panels[:, k]
        drawing.forest_axes(upper, "")
        upper.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=32)
        handles = [Line2D([], [], marker="o", linestyle="none", markersize=5.5, color=colour, label=words) for words, colour in colours.items()]
        look: dict[str, Any] = {"frameon": False, "borderpad": 0, "handletextpad": 0.1, "columnspacing": 0.8, "fontsize": 8.5}
        upper.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.06, 0.99), ncols=2, **look)
        drawing.forest_axes(lower, "")
        lower.axvline(0, **DASHED)
        for y, finding in enumerate(told):
            drawing.dumbbell(upper, y, {colours[group]: value for group, value in areas[finding].items()})
            apart = {group: of for group, of in differences[finding].items() if of}
            for i, (group, of) in enumerate(apart.items()):
                colour = colours.get(group, INK)
                drawing.interval_bar(lower, y + 0.24 * (i - (len(apart) - 1) / 2), of, colour, marker="o", filled=of["lo"] > 0 or of["hi"] < 0)
        upper.set_xlim(math.floor(10 * min([0.5, *(v for of in areas.values() for v in of.values() if v is not None)])) / 10, 1.0)
        drawn = [abs(of[end]) for by in differences.values() for of in by.values() if of for end in ("lo", "hi")]
        if not drawn:
            lower.text(0.5, 0.5, "too few films", transform=lower.transAxes, color=GREY, style="italic", ha="center", va="center")
        reach = min(1.0, max([0.1, *drawn]) * 1.05)
        lower.set_xlim(-reach, reach)
        for panel, words in ((upper, "AUROC"), (lower, "difference")):
            panel.set(xlabel=words, ylim=(len(told) - 0.4, -0.6))
            panel.locator_params(axis="x", nbins=4)
            panel.set_yticks(range(len(told)), [spell(finding) for finding in told])
    note = (
        f"{spell(name)}, {part['n_images']:,} films of {part['n_patients']:,} patients. Above: the AUROC within each group. Below: every other group less the "
        "blue one (first column: model\nless metadata), with 95 % intervals; filled where they leave 0 out. Groups with fewer than ten patients on a side are "
        "not drawn."
    )
    drawing.write_note(figure, note)
    return figure


def _has_a_group(row: Part) -> bool:
    return any(group["auroc"] for of in row["subgroups"].values() for group in of.values())


def _metadata(told: Part) -> Any:
    """Title, colours, finding -> AUROC by words, finding -> differences; None where no baseline is told."""
    known = {finding: row.get("metadata_baseline") or {"auroc": None, "difference": None} for finding, row in told.items()}
    if not any(of["auroc"] for of in known.values()):
        return None
    areas = {f: {"model": told[f]["auroc"]["value"], "metadata": of["auroc"]["value"]} if of["auroc"] else {} for f, of in known.items()}
    return "Metadata alone", {"model": BLUE, "metadata": GREY}, areas, {finding: {"": of["difference"]} for finding, of in known.items()}


def _groups(kind: str, told: Part) -> Any:
    kinds = {finding: row["subgroup_differences"][kind] for finding, row in told.items()}
    base = next(iter(kinds.values()))["base"]
    names = [base, *next(iter(kinds.values()))["groups"]]
    areas = {finding: {group: of["auroc"] and of["auroc"]["value"] for group, of in row["subgroups"][kind].items()} for finding, row in told.items()}
    if not any(value is not None for of in areas.values() for value in of.values()):
        return None
    differences = {finding: {group: of["auroc"] for group, of in one["groups"].items()} for finding, one in kinds.items()}
    return TITLES[kind], dict(zip(names, (BLUE, *OTHERS), strict=False)), areas, differences


def probes(told: Part) -> Figure:
    """A row per question and input: how well the answer is read off it, on films of patients whom the probe was not fitted on."""
    height = 3.1
    figure = Figure(figsize=(WIDTH, height))
    panel: Axes = figure.subplots()
    figure.subplots_adjust(left=1.9 / WIDTH, right=1 - 2.75 / WIDTH, bottom=0.5 / height, top=1 - 0.75 / height)
    panel.axvline(0.5, **DASHED)
    for y, kind in enumerate(QUESTIONS):
        for k, (name, (colour, _)) in enumerate(INPUTS.items()):
            if area := told[kind][name]["auroc"]:
                drawing.interval_bar(panel, y + 0.24 * (k - 1), area, colour, marker="o", filled=True)
    drawing.forest_axes(panel, "")
    panel.set_yticks(range(len(QUESTIONS)), [f"{words}\n({told[kind]['n_images']:,} films)" for kind, words in QUESTIONS.items()])
    ends = [of["auroc"]["lo"] for kind in QUESTIONS for of in map(told[kind].get, INPUTS) if of["auroc"]]
    panel.set(xlim=(math.floor(10 * min([0.4, *ends])) / 10, 1.0), ylim=(len(QUESTIONS) - 0.4, -0.6), xlabel="AUROC")
    drawn = {name: look for name, look in INPUTS.items() if any(told[kind][name]["auroc"] for kind in QUESTIONS)}
    handles = [Line2D([], [], marker="o", color=colour, label=f"read off {words}") for colour, words in drawn.values()]
    panel.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    note = (
        "How well a film's view, sex and age can be read off what the model makes of it, on patients whom the regression was not fitted on.\n"
        f"Fitted on {' and '.join(map(spell, told['fitted_on']))}; tested on {spell(told['tested_on'])}. Bars: 95 % intervals. Dashed: chance."
    )
    drawing.write_note(figure, note)
    return figure
