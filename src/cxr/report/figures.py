"""The model's pictures: intervals, curves and calibration of every reference set, and the training. No film and no identifier is ever drawn."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from cxr.report.drawing import BLUE, COLOURS, DASHED, GREY, INK, ORANGE, PALE, STYLE, VERMILION, WIDTH, Sets, forest_axes, frame, interval_bar, square_panels
from cxr.report.expert_figures import differences, readers
from cxr.report.reference import ReferenceSet
from cxr.report.wording import number, percent, spell, spell_set, value_of
from cxr.stats.ranking import precision_recall_curve, roc_curve

COLUMNS = 5  # of small multiples: three rows hold the 14 findings


def draw(
    folder: Path, report: Mapping[str, Any], scores: Mapping[str, pd.DataFrame], references: Mapping[str, ReferenceSet], *, metrics_csv: Path
) -> dict[str, Path]:
    """Draws every figure that the numbers allow.

    Args:
        folder: where the PNGs go.
        report: the content of report.json.
        scores: reference set -> the model's scores, indexed by image_id, a column per finding it speaks of.
        references: the sets.
        metrics_csv: Lightning's log; where there is none, the training is not drawn.

    Returns:
        title -> PNG in reading order: auroc; for every set <set>_roc, or <set>_readers where radiologists made the labels, <set>_precision_recall,
        <set>_differences and <set>_calibration; training.
    """
    sets = with_numbers(report)
    with matplotlib.rc_context(STYLE):  # a notebook that calls this keeps its own style and backend
        figures = {"auroc": forest(sets)} if sets else {}
        for name, part in sets.items():
            figures |= {f"{name}_{kind}": figure for kind, figure in _of_one_set(name, part, scores[name], references[name]).items()}
        metrics = pd.read_csv(metrics_csv) if metrics_csv.is_file() else pd.DataFrame()
        if "val/auroc_macro" in metrics and metrics["val/auroc_macro"].notna().any():
            figures["training"] = training(metrics)
        for title, figure in figures.items():
            figure.savefig(folder / f"{title}.png", metadata={"Software": None})
    return {title: folder / f"{title}.png" for title in figures}


def _of_one_set(name: str, part: Mapping[str, Any], scores: pd.DataFrame, reference: ReferenceSet) -> dict[str, Figure]:
    rows = part["findings"].values()
    figures = {}
    if part["n_images"] and part["adjudicated"]:
        figures["readers"] = readers(name, part, scores, reference)
    if any(row["auroc"] for row in rows):
        if not part["adjudicated"]:
            figures["roc"] = curves("roc", name, part, scores, reference)
        figures["precision_recall"] = curves("precision_recall", name, part, scores, reference)
    if any(row for of in part.get("readers", {}).get("differences", {}).get("by_reader", {}).values() for row in of.values()):
        figures["differences"] = differences(name, part)
    if any(row["auroc"] and "calibration" in row for row in rows):
        figures["calibration"] = calibration(name, part)
    return figures


def with_numbers(report: Mapping[str, Any]) -> Sets:
    """The reference sets that were evaluated."""
    return {name: part for name, part in report["reference_sets"].items() if part["findings"]}


def leading_set(sets: Sets) -> str:
    """The set whose numbers are read first: radiologists before text mining, test before validation, among those that have an AUROC."""
    defined = [name for name in ("all_findings_test", "nih_test", *sets) if name in sets and any(row["auroc"] for row in sets[name]["findings"].values())]
    return defined[0] if defined else next(iter(sets))


# --- AUROC of every finding and set -----------------------------------------------------------------------------------------------------------------


def forest(sets: Sets) -> Figure:
    """A panel per reference set, a row per finding, the mean over findings in the last row."""
    leading = leading_set(sets)
    findings = list(dict.fromkeys(finding for part in sets.values() for finding in part["findings"]))
    order = {finding: (row["auroc"] or {"value": -1.0})["value"] for finding, row in sets[leading]["findings"].items()}
    findings.sort(key=lambda finding: -order.get(finding, -1.0))
    drawn = [row["auroc"] for part in sets.values() for row in (*part["findings"].values(), part["macro"]) if row["auroc"]]
    left = min([0.5, *(math.floor(estimate["lo"] * 10) / 10 for estimate in drawn)])

    figure = Figure(figsize=(WIDTH, 0.29 * len(findings) + 1.7), layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel, (name, part) in zip(panels, sets.items(), strict=True):
        colour = COLOURS.get(name, INK)
        panel.axvline(0.5, **DASHED)
        panel.axhline(len(findings) - 0.4, color=PALE, linewidth=0.8)
        for y, finding in enumerate(findings):
            if row := part["findings"].get(finding):
                interval_bar(panel, y, row["auroc"], colour, marker="o", filled=finding in part["macro"]["findings"])
                panel.text(1.26, y, f"{row['n_pos']:,}", transform=panel.get_yaxis_transform(), color=GREY, ha="right", va="center")
        interval_bar(panel, len(findings) + 0.2, part["macro"]["auroc"], colour, marker="D", filled=True)
        panel.text(1.26, -1, "positive", transform=panel.get_yaxis_transform(), color=GREY, ha="right", va="center")
        forest_axes(panel, spell_set(name).replace(", ", ",\n"))
        panel.set(xlim=(left, 1.0), ylim=(len(findings) + 0.8, -1.4), xlabel="AUROC")
        panel.set_yticks([*range(len(findings)), len(findings) + 0.2], [*map(spell, findings), "Mean over findings"])
    note = f"Bars: 95 % intervals. Hollow: not part of the mean. Dashed: chance. Findings in the order of {spell_set(leading)}."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return figure


# --- curves -----------------------------------------------------------------------------------------------------------------------------------------


AXES = {"roc": ("1 − specificity", "Sensitivity"), "precision_recall": ("Recall (sensitivity)", "Precision")}
CAPTIONS = {
    "roc": "ROC curves. AUROC [95 % interval]. Dashed: chance.",
    "precision_recall": "Precision against recall. AUPRC [95 % interval]. Dashed: prevalence.",
}


def curves(kind: str, name: str, part: Mapping[str, Any], scores: pd.DataFrame, reference: ReferenceSet) -> Figure:
    """A small panel per finding of one reference set.

    Args:
        kind: roc or precision_recall.
        name: of the reference set.
        part: its part of report.json.
        scores: of the model.
        reference: the set; rows meet the scores by image_id, never by order.
    """
    films = reference.films.set_index("image_id").loc[scores.index]
    findings = part["findings"]
    note = f"{spell_set(name)}, {part['n_images']:,} films of {part['n_patients']:,} patients. {CAPTIONS[kind]}"
    figure, panels = square_panels(len(findings), columns=COLUMNS, note=note)
    for i, (panel, (finding, row)) in enumerate(zip(panels, findings.items(), strict=True)):
        outer = {"left": i % COLUMNS == 0, "bottom": i + COLUMNS >= len(findings)}
        if row["auroc"] is None:
            frame(panel, spell(finding), "undefined", **outer, labels=AXES[kind])
            panel.text(0.5, 0.5, textwrap.fill(row["reason"], 24), color=GREY, ha="center", va="center", fontsize=8.5)
            continue
        known = films[finding].notna()
        score, positive = scores[finding][known].to_numpy(), films[finding][known].to_numpy() == 1
        if kind == "roc":
            estimate, counts = row["auroc"], f"{row['n_pos']:,} positive, {row['n_neg']:,} negative"
            panel.plot([0, 1], [0, 1], **DASHED)
            panel.plot(*roc_curve(score, positive), color=COLOURS.get(name, INK), linewidth=1.6, gid="curve")
        else:
            estimate, counts = row["auprc"], f"prevalence {percent(row['prevalence'])}, {row['n_pos']:,} positive"
            panel.axhline(row["prevalence"], **DASHED)
            recall, precision = precision_recall_curve(score, positive)
            # a step holds the precision at its end: the area under the drawn line is the average precision
            step: dict[str, Any] = {"drawstyle": "steps-pre", "color": COLOURS.get(name, INK), "linewidth": 1.6, "gid": "curve"}
            panel.plot(np.r_[0.0, recall], np.r_[precision[0], precision], **step)
        frame(panel, spell(finding), f"{number(estimate)}\n{counts}", **outer, labels=AXES[kind])
    return figure


# --- calibration ------------------------------------------------------------------------------------------------------------------------------------


SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)  # a rare finding's probabilities would all lie in the corner of a common one's panel
STAGES: dict[str, dict[str, Any]] = {
    "before": {"color": GREY, "marker": "o", "markerfacecolor": "white", "label": "as the model says it"},
    "platt": {"color": BLUE, "marker": "o", "markerfacecolor": BLUE, "label": "after Platt scaling"},
}


def calibration(name: str, part: Mapping[str, Any]) -> Figure:
    """A reliability diagram per finding: what share had it, of films with about the same probability."""
    findings = {finding: row["calibration"] for finding, row in part["findings"].items() if row["auroc"]}
    note = (
        f"{spell_set(name)}. A point is a tenth of the films: their mean probability, and the share that had the finding with its 95 % interval.\n"
        "On the dashed line the probability holds; above it the model says too little. Mind the scales: they differ, and cut intervals off."
    )
    figure, panels = square_panels(len(findings), columns=COLUMNS, note=note, legend=0.25, above=0.95, gap=0.5)
    for i, (panel, (finding, told)) in enumerate(zip(panels, findings.items(), strict=True)):
        before = f"ECE {value_of(told['before']['ece'])}" if told["before"] else "a score, no probability"
        after = f"ECE {value_of(told['platt']['ece'])} after Platt" if told["platt"] else "Platt scaling not fitted"
        labels = ("Probability" if i + COLUMNS >= len(findings) else "", "Observed" if i % COLUMNS == 0 else "")
        frame(panel, spell(finding), f"{before}\n{after}", left=True, bottom=True, labels=labels)
        bins = [(stage, b) for stage in STAGES if told[stage] for b in told[stage]["bins"]]
        most = max((max(b["mean_probability"], b["observed"]["value"]) for _, b in bins), default=1.0)
        scale = next(scale for scale in SCALES if most <= scale)
        panel.plot([0, scale], [0, scale], **DASHED)
        for stage, b in bins:
            look = {key: value for key, value in STAGES[stage].items() if key != "label"}
            panel.plot([b["mean_probability"]] * 2, [b["observed"]["lo"], b["observed"]["hi"]], color=look["color"], linewidth=1.0, alpha=0.55)
            panel.plot(b["mean_probability"], b["observed"]["value"], markersize=4.5, linestyle="none", clip_on=False, zorder=3, gid=stage, **look)
        ticks = [0, scale / 2, scale]
        words = [f"{tick:g}" for tick in ticks]
        panel.set(xlim=(-0.01 * scale, 1.01 * scale), ylim=(-0.01 * scale, 1.01 * scale), xticks=ticks, yticks=ticks, xticklabels=words, yticklabels=words)
    handles = [Line2D([], [], linestyle="none", markersize=6, **look) for look in STAGES.values()]
    box = (0.55 / WIDTH, 1 - 0.52 / figure.get_size_inches()[1])
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=box, ncols=2, frameon=False, borderpad=0, handletextpad=0.2)
    return figure


# --- training ---------------------------------------------------------------------------------------------------------------------------------------


def training(metrics: pd.DataFrame) -> Figure:
    """Losses and the validation AUROC that chose the checkpoint, over the epochs.

    Args:
        metrics: Lightning's metrics.csv, validated at least once: epoch and step (both from 0), and columns that most rows leave empty.
    """
    validated = metrics.dropna(subset=["val/auroc_macro"])
    steps_per_epoch = float(((validated["step"] + 1) / (validated["epoch"] + 1)).median())
    after = validated["epoch"] + 1
    figure = Figure(figsize=(WIDTH, 3.6), layout=ConstrainedLayoutEngine(wspace=0.08))
    losses, areas = figure.subplots(1, 2)

    if "train/loss" in metrics.columns:
        trained = metrics.dropna(subset=["train/loss"])
        losses.plot((trained["step"] + 1) / steps_per_epoch, trained["train/loss"], color=ORANGE, linewidth=1.2, label="train/loss, of single batches")
    losses.plot(after, validated["val/loss"], color=BLUE, linewidth=1.8, marker="o", markersize=4, label="val/loss")
    areas.plot(after, validated["val/auroc_macro"], color=BLUE, linewidth=1.8, marker="o", markersize=4)
    best = int(validated["val/auroc_macro"].to_numpy().argmax())
    epoch, value = int(after.iloc[best]), float(validated["val/auroc_macro"].iloc[best])
    areas.plot(epoch, value, marker="o", markersize=9, markerfacecolor="none", color=VERMILION, markeredgewidth=1.8)
    for panel, title in ((losses, "Loss"), (areas, f"val/auroc_macro, best: {value:.3f} after epoch {epoch}")):
        panel.axvline(epoch, **DASHED)
        panel.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        panel.set_xlabel("Epochs trained")
        panel.set_xlim(0, float(after.max()) * 1.03)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="y", color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
    losses.legend(framealpha=1.0, edgecolor="none", loc="upper right")
    return figure
