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

from cxr.cohort.findings import read_table
from cxr.report import drawing, shortcut_figures
from cxr.report.charts import CALIBRATION_AXES, PRECISION_RECALL_AXES, films_of
from cxr.report.drawing import BLUE, COLOURS, DASHED, GREY, INK, ORANGE, PALE, ROC_AXES, STYLE, VERMILION, WIDTH, Part, Sets
from cxr.report.expert_figures import differences, readers
from cxr.report.reference import ReferenceSet
from cxr.report.wording import number, percent, spell, value_of
from cxr.stats.ranking import precision_recall_curve, roc_curve

COLUMNS = 5  # of small multiples: three rows hold the 14 findings


class MetricsError(ValueError):
    """metrics.csv is damaged."""


def read_metrics(path: Path) -> pd.DataFrame:
    """metrics.csv, what was logged in training; empty where there is none, as of an ensemble.

    Raises:
        MetricsError: it is no table of numbers, or a row of a validation tells no epoch and step.
    """
    if not path.is_file():
        return pd.DataFrame()
    try:
        read_table(path)  # refuses rows that are shorter than the header, and columns of one name, which pandas takes
        metrics = pd.read_csv(path)
        if words := [name for name, kind in metrics.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
            raise MetricsError(f"{words[0]} is no number")
        places = metrics[["epoch", "step"]]
        validated = metrics[["val/auroc_macro", "val/loss"]]["val/auroc_macro"].notna() if "val/auroc_macro" in metrics else pd.Series(False, metrics.index)
        if not (places.isna() | (places >= 0) & (places < 1e15)).all(axis=None) or places[validated].isna().any(axis=None):
            raise MetricsError("an epoch or a step is no number")
    except (ValueError, KeyError) as error:
        raise MetricsError(f"{path} is damaged ({(str(error).splitlines() or [type(error).__name__])[0]}); delete it, and there are no curves") from error
    return metrics


def draw(
    folder: Path, report: Mapping[str, Any], scores: Mapping[str, pd.DataFrame], references: Mapping[str, ReferenceSet], *, metrics_csv: Path
) -> dict[str, Path]:
    """Draws every figure that the numbers allow, and the training where Lightning's log is.

    Args:
        report: the content of report.json.
        scores: reference set -> the model's scores, indexed by image_id, a column per finding it speaks of.

    Returns:
        title -> PNG in reading order: auroc; for every set <set>_roc, or <set>_readers where radiologists made the labels, <set>_precision_recall,
        <set>_differences, <set>_calibration and <set>_groups; shortcuts; training.
    """
    sets = with_numbers(report)
    with matplotlib.rc_context(STYLE):  # a notebook that calls this keeps its own style and backend
        figures = {"auroc": forest(sets)} if sets else {}
        for name, part in sets.items():
            figures |= {f"{name}_{kind}": figure for kind, figure in of_one_set(name, part, scores[name], references[name]).items()}
        if told := report.get("shortcuts"):
            figures["shortcuts"] = shortcut_figures.probes(told)
        metrics = read_metrics(metrics_csv)
        if "val/auroc_macro" in metrics and metrics["val/auroc_macro"].notna().any():
            figures["training"] = training(metrics)
        return drawing.save(folder, figures)


def of_one_set(name: str, part: Part, scores: pd.DataFrame, reference: ReferenceSet) -> dict[str, Figure]:
    """kind -> figure, of the kinds that `draw` names and that the set's numbers allow."""
    told = (scores, reference)
    rows, by_reader = part["findings"].values(), part.get("readers", {}).get("differences", {}).get("by_reader", {})
    has_curves = any(row["auroc"] for row in rows)
    figures = {
        "readers": part["n_images"] and "readers" in part and readers(name, part, *told),
        "roc": has_curves and "readers" not in part and curves("roc", name, part, *told),
        "precision_recall": has_curves and curves("precision_recall", name, part, *told),
        "differences": any(by_reader.values()) and differences(name, part),
        "calibration": any(row["auroc"] and "calibration" in row for row in rows) and calibration(name, part),
        "groups": shortcut_figures.groups(name, part) if has_curves and (part["adjudicated"] or not name.endswith("_val")) else None,
    }
    return {kind: figure for kind, figure in figures.items() if figure}


def with_numbers(report: Mapping[str, Any]) -> Sets:
    """The reference sets that were evaluated."""
    return {name: part for name, part in report["reference_sets"].items() if part["findings"]}


def leading_set(sets: Sets) -> str:
    """The set whose numbers are read first: radiologists before text mining, test before validation, among those that have an AUROC."""
    defined = [name for name in ("all_findings_test", "nih_test", *sets) if name in sets and any(row["auroc"] for row in sets[name]["findings"].values())]
    return defined[0] if defined else next(iter(sets))


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
                drawing.interval_bar(panel, y, row["auroc"], colour, marker="o", filled=finding in part["macro"]["findings"])
                panel.text(1.26, y, f"{row['n_pos']:,}", transform=panel.get_yaxis_transform(), color=GREY, ha="right", va="center")
        drawing.interval_bar(panel, len(findings) + 0.2, part["macro"]["auroc"], colour, marker="D", filled=True)
        panel.text(1.26, -1, "positive", transform=panel.get_yaxis_transform(), color=GREY, ha="right", va="center")
        drawing.forest_axes(panel, spell(name).replace(", ", ",\n"))
        panel.set(xlim=(left, 1.0), ylim=(len(findings) + 0.8, -1.4), xlabel="AUROC")
        panel.set_yticks([*range(len(findings)), len(findings) + 0.2], [*map(spell, findings), "Mean over findings"])
    note = f"Bars: 95 % intervals. Hollow: not part of the mean. Dashed: chance. Findings in the order of {spell(leading)}."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return figure


# what the panels show, and their axes
CURVES = {
    "roc": ("ROC curves. AUROC [95 % interval]. Dashed: chance.", ROC_AXES),
    "precision_recall": ("Precision against recall. AUPRC [95 % interval]. Dashed: prevalence.", PRECISION_RECALL_AXES),
}


def curves(kind: str, name: str, part: Part, scores: pd.DataFrame, reference: ReferenceSet) -> Figure:
    """A small panel per finding of one reference set, of `kind` roc or precision_recall."""
    findings, (caption, labels) = part["findings"], CURVES[kind]
    note = f"{spell(name)}, {part['n_images']:,} films of {part['n_patients']:,} patients. {caption}"
    figure, panels = drawing.square_panels(len(findings), columns=COLUMNS, note=note, labels=labels)
    for panel, (finding, row) in zip(panels, findings.items(), strict=True):
        if row["auroc"] is None:
            drawing.head(panel, spell(finding), "undefined")
            panel.text(0.5, 0.5, textwrap.fill(row["reason"], 24), color=GREY, ha="center", va="center", fontsize=8.5)
            continue
        score, positive = films_of(finding, scores, reference)
        line: dict[str, Any] = {"color": COLOURS.get(name, INK), "linewidth": 1.6, "gid": "curve"}
        if kind == "roc":
            told = f"{number(row['auroc'])}\n{row['n_pos']:,} positive, {row['n_neg']:,} negative"
            panel.plot([0, 1], [0, 1], **DASHED)
            panel.plot(*roc_curve(score, positive), **line)
        else:
            told = f"{number(row['auprc'])}\nprevalence {percent(row['prevalence'])}, {row['n_pos']:,} positive"
            panel.axhline(row["prevalence"], **DASHED)
            recall, precision = precision_recall_curve(score, positive)
            # a step holds the precision at its end: the area under the drawn line is the average precision
            panel.plot(np.r_[0.0, recall], np.r_[precision[0], precision], drawstyle="steps-pre", **line)
        drawing.head(panel, spell(finding), told)
    return figure


SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)  # a rare finding's probabilities would all lie in the corner of a common one's panel
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "before": ("as the model says it", {"color": GREY, "marker": "o", "markerfacecolor": "white", "linestyle": "none"}),
    "platt": ("after Platt scaling", {"color": BLUE, "marker": "o", "linestyle": "none"}),
}


def calibration(name: str, part: Part) -> Figure:
    """A reliability diagram per finding: what share had it, of films with about the same probability."""
    findings = {finding: row["calibration"] for finding, row in part["findings"].items() if row["auroc"]}
    note = (
        f"{spell(name)}. A point is a tenth of the films: their mean probability, and the share that had the finding with its 95 % interval.\n"
        "On the dashed line the probability holds; above it the model says too little. Mind the scales: they differ, and cut intervals off."
    )
    figure, panels = drawing.square_panels(len(findings), columns=COLUMNS, note=note, labels=CALIBRATION_AXES, legend=0.25, above=0.95, gap=0.5)
    for panel, (finding, told) in zip(panels, findings.items(), strict=True):
        before = f"ECE {value_of(told['before']['ece'])}" if told["before"] else "a score, no probability"
        after = f"ECE {value_of(told['platt']['ece'])} after Platt" if told["platt"] else "Platt scaling not fitted"
        drawing.head(panel, spell(finding), f"{before}\n{after}")
        bins = {stage: told[stage]["bins"] for stage in STAGES if told[stage]}
        most = max((max(b["mean_probability"], b["observed"]["value"]) for of in bins.values() for b in of), default=1.0)
        scale = next(scale for scale in SCALES if most <= scale)
        panel.plot([0, scale], [0, scale], **DASHED)
        for stage, of in bins.items():
            look, at = STAGES[stage][1], [b["mean_probability"] for b in of]
            lo, hi = ([b["observed"][end] for b in of] for end in ("lo", "hi"))
            panel.vlines(at, lo, hi, color=look["color"], linewidth=1.0, alpha=0.55)
            panel.plot(at, [b["observed"]["value"] for b in of], markersize=4.5, clip_on=False, zorder=3, gid=stage, **look)
        drawing.rescale(panel, scale)
        panel.tick_params(labelleft=True, labelbottom=True)
    drawing.legend(figure, note, {label: look | {"markersize": 6} for label, look in STAGES.values()})
    return figure


def training(metrics: pd.DataFrame) -> Figure:
    """Losses and the validation AUROC that chose the checkpoint, over the epochs: epoch and step count from 0, and most rows leave most columns empty."""
    validated = metrics.dropna(subset=["val/auroc_macro"])
    steps_per_epoch = float(((validated["step"] + 1) / (validated["epoch"] + 1)).median())
    after = validated["epoch"] + 1
    figure = Figure(figsize=(WIDTH, 3.6), layout=ConstrainedLayoutEngine(wspace=0.08))
    losses, areas = figure.subplots(1, 2)

    if "train/loss" in metrics.columns:
        trained = metrics.dropna(subset=["train/loss"])
        losses.plot((trained["step"] + 1) / steps_per_epoch, trained["train/loss"], color=ORANGE, linewidth=1.2, label="train/loss, of single batches")
    line: dict[str, Any] = {"color": BLUE, "linewidth": 1.8, "marker": "o", "markersize": 4}
    losses.plot(after, validated["val/loss"], **line, label="val/loss")
    areas.plot(after, validated["val/auroc_macro"], **line)
    best = int(validated["val/auroc_macro"].to_numpy().argmax())
    epoch, value = int(after.iloc[best]), float(validated["val/auroc_macro"].iloc[best])
    areas.plot(epoch, value, marker="o", markersize=9, markerfacecolor="none", color=VERMILION, markeredgewidth=1.8)
    for panel, title in ((losses, "Loss"), (areas, f"val/auroc_macro, best: {value:.3f} after epoch {epoch}")):
        panel.axvline(epoch, **DASHED)
        panel.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        panel.set(xlabel="Epochs trained", xlim=(0, float(after.max()) * 1.03))
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="y", color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
    losses.legend(framealpha=1.0, edgecolor="none", loc="upper right")
    return figure
