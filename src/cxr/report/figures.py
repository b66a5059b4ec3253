"""The report's figures: intervals and curves of every reference set, and the training. No film and no identifier is ever drawn.

Colours are Okabe & Ito's (2008), which colour-blind readers tell apart. A figure is 11 inches wide and shown 1,100 pixels wide: a point of type is 1.4 pixels.
"""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cxr.report.predictions import Predictions
from cxr.stats.ranking import precision_recall_curve, roc_curve

BLUE, ORANGE, GREEN, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00"
INK, GREY, PALE = "#222222", "#6b6b6b", "#d9d9d9"
COLOURS = {"nih_val": SKY, "nih_test": BLUE, "all_findings_test": VERMILION, "four_findings_validation": ORANGE, "four_findings_test": GREEN}

WIDTH = 11.0  # inches
DASHED: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 3))}
COLUMNS = 5  # of small multiples: three rows hold the 14 findings
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
}

Sets = Mapping[str, Mapping[str, Any]]


def draw(folder: Path, report: Mapping[str, Any], predictions: Predictions, references: Mapping[str, pd.DataFrame], *, metrics_csv: Path) -> dict[str, Path]:
    """Draws every figure that the numbers allow.

    Args:
        folder: where the PNGs go.
        report: the content of report.json.
        predictions: of the model.
        references: reference set -> image_id and a column per finding (1, 0, NaN where unknown).
        metrics_csv: Lightning's log; where there is none, the training is not drawn.

    Returns:
        title -> PNG in reading order: auroc, <set>_roc and <set>_precision_recall for every set with a curve, training.
    """
    sets = with_numbers(report)
    with matplotlib.rc_context(STYLE):  # a notebook that calls this keeps its own style and backend
        figures = {"auroc": forest(sets)} if sets else {}
        for name, part in sets.items():
            if any(row["auroc"] for row in part["findings"].values()):
                figures[f"{name}_roc"] = curves("roc", name, part, predictions, references[name])
                figures[f"{name}_precision_recall"] = curves("precision_recall", name, part, predictions, references[name])
        metrics = pd.read_csv(metrics_csv) if metrics_csv.is_file() else pd.DataFrame()
        if "val/auroc_macro" in metrics and metrics["val/auroc_macro"].notna().any():
            figures["training"] = training(metrics)
        for title, figure in figures.items():
            figure.savefig(folder / f"{title}.png", metadata={"Software": None})
    return {title: folder / f"{title}.png" for title in figures}


def with_numbers(report: Mapping[str, Any]) -> Sets:
    """The reference sets that were evaluated."""
    return {name: part for name, part in report["reference_sets"].items() if part["findings"]}


def leading_set(sets: Sets) -> str:
    """The set whose numbers are read first: radiologists before text mining, test before validation, among those that have an AUROC."""
    defined = [name for name in ("all_findings_test", "nih_test", *sets) if name in sets and any(row["auroc"] for row in sets[name]["findings"].values())]
    return defined[0] if defined else next(iter(sets))


def spell(finding: str) -> str:
    return finding.replace("_", " ")


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
                _interval(panel, y, row["auroc"], colour, marker="o", filled=finding in part["macro"]["findings"])
                panel.text(1.19, y, f"{row['n_pos']:,}", transform=panel.get_yaxis_transform(), color=GREY, ha="right", va="center")
        _interval(panel, len(findings) + 0.2, part["macro"]["auroc"], colour, marker="D", filled=True)
        panel.text(1.19, -1, "positive", transform=panel.get_yaxis_transform(), color=GREY, ha="right", va="center")
        panel.set_title(name, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=8)
        panel.set(xlim=(left, 1.0), ylim=(len(findings) + 0.8, -1.4), xlabel="AUROC")
        panel.set_yticks([*range(len(findings)), len(findings) + 0.2], [*map(spell, findings), "Mean over findings"])
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
        panel.grid(axis="x", color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
    note = f"Bars: 95 % intervals. Hollow: not part of the mean. Dashed: chance. Findings in the order of {leading}."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return figure


def _interval(panel: Axes, y: float, estimate: Mapping[str, float] | None, colour: str, *, marker: str, filled: bool) -> None:
    if estimate is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        panel.text(0.02, y, "undefined", transform=panel.get_yaxis_transform(), color=GREY, style="italic", va="center", bbox=box)
        return
    panel.plot([estimate["lo"], estimate["hi"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", clip_on=False)
    face = colour if filled else "white"
    panel.plot(estimate["value"], y, marker=marker, markersize=6.5, color=colour, markerfacecolor=face, markeredgewidth=1.5, clip_on=False)


# --- curves -----------------------------------------------------------------------------------------------------------------------------------------


AXES = {"roc": ("1 − specificity", "Sensitivity"), "precision_recall": ("Recall (sensitivity)", "Precision")}
CAPTIONS = {
    "roc": "ROC curves. AUROC [95 % interval]. Dashed: chance.",
    "precision_recall": "Precision against recall. AUPRC [95 % interval]. Dashed: prevalence.",
}


def curves(kind: str, name: str, part: Mapping[str, Any], predictions: Predictions, reference: pd.DataFrame) -> Figure:
    """A small panel per finding of one reference set.

    Args:
        kind: roc or precision_recall.
        name: of the reference set.
        part: its part of report.json.
        predictions: of the model.
        reference: its labels; rows meet those of the predictions by image_id, never by order.
    """
    joined = reference.merge(predictions.table.drop(columns=["patient_id", "split"]), on="image_id", validate="one_to_one")
    findings = part["findings"]
    n_rows = math.ceil(len(findings) / COLUMNS)
    # inches: square panels of 1.8 with 0.3 between them and 0.8 above each for its numbers
    height = 0.3 + n_rows * 2.6 + 0.5
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(left=0.65 / WIDTH, right=1 - 0.15 / WIDTH, bottom=0.5 / height, top=1 - 1.1 / height, wspace=0.3 / 1.8, hspace=0.8 / 1.8)
    for i, (panel, (finding, row)) in enumerate(zip(panels, findings.items(), strict=False)):
        _frame(panel, spell(finding), left=i % COLUMNS == 0, bottom=i + COLUMNS >= len(findings), labels=AXES[kind])
        if row["auroc"] is None:
            panel.text(0, 1.05, "undefined", transform=panel.transAxes, color=GREY, style="italic", fontsize=8.5)
            panel.text(0.5, 0.5, textwrap.fill(row["reason"], 24), color=GREY, ha="center", va="center", fontsize=8.5)
            continue
        known = joined[joined[finding].notna()]
        scores, positive = known[f"logit_{finding}"].to_numpy(np.float64), known[finding].to_numpy() == 1
        if kind == "roc":
            estimate, counts = row["auroc"], f"{row['n_pos']:,} positive, {row['n_neg']:,} negative"
            panel.plot([0, 1], [0, 1], **DASHED)
            panel.plot(*roc_curve(scores, positive), color=COLOURS.get(name, INK), linewidth=1.6, gid="curve")
        else:
            estimate, counts = row["auprc"], f"prevalence {percent(row['prevalence'])}, {row['n_pos']:,} positive"
            panel.axhline(row["prevalence"], **DASHED)
            recall, precision = precision_recall_curve(scores, positive)
            # a step holds the precision at its end: the area under the drawn line is the average precision
            step = {"drawstyle": "steps-pre", "color": COLOURS.get(name, INK), "linewidth": 1.6, "gid": "curve"}
            panel.plot(np.r_[0.0, recall], np.r_[precision[0], precision], **step)
        told = f"{estimate['value']:.3f} [{estimate['lo']:.3f}, {estimate['hi']:.3f}]"
        panel.text(0, 1.05, f"{told}\n{counts}", transform=panel.transAxes, color=GREY, fontsize=8.5, linespacing=1.35)
    for panel in panels[len(findings) :]:
        panel.remove()
    told = f"{name}, {part['n_images']:,} films of {part['n_patients']:,} patients. {CAPTIONS[kind]}"
    figure.suptitle(told, x=0.65 / WIDTH, y=1 - 0.1 / height, ha="left", va="top", fontsize=9.5, color=GREY)
    return figure


def _frame(panel: Axes, title: str, *, left: bool, bottom: bool, labels: tuple[str, str]) -> None:
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=31)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"], yticklabels=["0", "0.5", "1"])
    panel.grid(color=PALE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelleft=left, labelbottom=bottom)
    if left:
        panel.set_ylabel(labels[1])
    if bottom:
        panel.set_xlabel(labels[0])


def percent(share: float) -> str:
    """
    >>> percent(0.4), percent(0.00047)
    ('40.0 %', '0.047 %')
    """
    return f"{100 * share:.1f} %" if share >= 0.01 or share == 0 else f"{100 * share:.2g} %"


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
