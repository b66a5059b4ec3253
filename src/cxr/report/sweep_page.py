"""What came of a sweep: trials.csv, a picture, and a page."""

import csv
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cxr.atomic import write_whole
from cxr.report import drawing, pages
from cxr.report.drawing import BLUE, GREY, PALE, STYLE, VERMILION, WIDTH
from cxr.report.pages import Block, Page, Row, Table

Part = Mapping[str, Any]
Trials = Sequence[Part]

FILES = ("trials.csv", "sweep.png", "sweep.html", "sweep.md")
COLUMNS = 4  # panels in a row
MEANING = (
    "Every trial is one training, scored by its best epoch on the validation films; a pruned one by the best until it was ended. No test film was opened.",
    "The best of many trials on the same films is better there than it will be elsewhere: some of its lead is luck. Trials within the scatter of seeds"
    " (scripts/seeds.py) of each other are equally good. What a recipe is worth, the report of its run on the test sets says.",
)
MARK: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white"}
TRAINED = MARK | {"marker": "o", "color": BLUE, "markersize": 6.5, "markeredgewidth": 0.7, "zorder": 3}
PRUNED = MARK | {"marker": "x", "color": GREY, "markersize": 6, "markeredgewidth": 1.6, "markeredgecolor": GREY, "zorder": 2}
BEST = MARK | {"marker": "*", "color": VERMILION, "markersize": 15, "markeredgewidth": 0.8, "zorder": 4}


def write(folder: Path, sweep: Part) -> None:
    """trials.csv, sweep.png, sweep.html and sweep.md, each whole or not at all.

    Args:
        folder: of the study.
        sweep: study, n (state -> number of trials), best (a row of trials, or None), trials (rows of number, state, value, epochs, drawn, reason), is_log
            (parameter -> whether it is searched on a logarithmic scale), protocol, attribution.
    """
    building = folder / "results.partial"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    names, trials, n = list(sweep["is_log"]), sweep["trials"], sweep["n"]
    scored = [trial for trial in trials if trial["state"] in ("trained", "pruned") and trial["value"] is not None]
    pictures = {}
    if scored:
        with matplotlib.rc_context(STYLE):
            pictures = drawing.save(building, {"sweep": draw(scored, sweep["best"], sweep["is_log"])})
    ranked = sorted(scored, key=lambda trial: (trial["state"] != "trained", -trial["value"]))
    page = Page(
        title=f"Sweep {sweep['study']}",
        facts=[f"{number} {state}" for state, number in n.items() if number],
        measure="Validation AUROC",
        cards=[],
        sections=[
            ("", [Block("", MEANING, picture="sweep", alt="Validation AUROC of every trial, in order and against each parameter")]),
            ("Trials, the best first", [Block("", (), [Table([_row(trial, names) for trial in ranked])])]),
            ("Failed and lost", [Block("", (), [Table([_failed(trial, names) for trial in trials if trial["state"] in ("failed", "lost")])])]),
        ],
        protocol=sweep["protocol"],
        attribution=sweep["attribution"],
    )
    pages.write(building, "sweep", page, pictures)
    write_whole(building / "trials.csv", trials_csv(trials, names).encode())
    for name in FILES:
        if (building / name).exists():
            (building / name).rename(folder / name)
    shutil.rmtree(building)


def _row(trial: Part, names: Sequence[str]) -> Row:
    cells: Row = {"Trial": str(trial["number"]), "Validation AUROC": f"{trial['value']:.4f}", "Epochs": trial["epochs"]}
    return cells | {"": "" if trial["state"] == "trained" else trial["state"]} | {name: trial["drawn"].get(name, "") for name in names}


def _failed(trial: Part, names: Sequence[str]) -> Row:
    cells: Row = {"Trial": str(trial["number"]), "State": trial["state"]}
    return cells | {name: trial["drawn"].get(name, "") for name in names} | {"Note": trial["reason"]}


def trials_csv(trials: Trials, names: Sequence[str]) -> str:
    """A line per trial: number, state, value, epochs, every parameter, folder (beside the file), reason."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "value", "epochs", *names, "folder", "reason"])
    for trial in trials:
        drawn = [trial["drawn"].get(name, "") for name in names]
        writer.writerow([trial["number"], trial["state"], trial["value"], trial["epochs"], *drawn, trial["number"], trial["reason"]])
    return text.getvalue()


def draw(trials: Trials, best: Part | None, is_log: Mapping[str, bool]) -> Figure:
    """The best value as trials came in, and the value of every trial against each parameter."""
    n_rows = 1 + math.ceil(len(is_log) / COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.75 * n_rows), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    grid = figure.add_gridspec(n_rows, min(COLUMNS, max(1, len(is_log))))
    history = figure.add_subplot(grid[0, :])
    _history(history, trials, best)
    for i, (name, log) in enumerate(is_log.items()):
        panel = figure.add_subplot(grid[1 + i // COLUMNS, i % COLUMNS], sharey=history)
        _against(panel, name, log, trials, best)
        panel.tick_params(labelleft=i % COLUMNS == 0)
        panel.set_ylabel("Validation AUROC" if i % COLUMNS == 0 else "")
    looks = {"trained to the end": TRAINED, "pruned: the best until then": PRUNED, "the best": BEST}
    handles = [Line2D([], [], **look, label=label) for label, look in looks.items()]
    handles.append(Line2D([], [], color=VERMILION, linewidth=1.4, label="the best so far"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    # a trial that learned nothing must not press all others into one line
    values = sorted(trial["value"] for trial in trials)
    quarter, top = values[len(values) // 4], values[-1]
    bottom = max(values[0], quarter - 1.5 * (top - quarter) - 0.002)
    room = 0.06 * (top - bottom) or 0.01
    history.set_ylim(bottom - room, top + 1.5 * room)
    return figure


def _history(panel: Axes, trials: Trials, best: Part | None) -> None:
    _marks(panel, [(trial["number"], trial) for trial in trials], best)
    steps, so_far = [], -math.inf
    for trial in trials:
        if trial["state"] == "trained":
            so_far = max(so_far, trial["value"])
            steps.append((trial["number"], so_far))
    if steps:
        panel.plot(*zip(*[*steps, (trials[-1]["number"], so_far)], strict=True), drawstyle="steps-post", color=VERMILION, linewidth=1.4, zorder=1)
    panel.set(xlabel="Trial", ylabel="Validation AUROC")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _grid(panel)


def _against(panel: Axes, name: str, log: bool, trials: Trials, best: Part | None) -> None:
    words = [trial["drawn"][name] for trial in trials]
    try:
        places, labels = [float(word) for word in words], None
    except ValueError:
        labels = list(dict.fromkeys(sorted(words)))
        # side by side within their choice, in order of number
        places = [labels.index(word) + 0.36 * (2 * ((0.618 * trial["number"]) % 1) - 1) for word, trial in zip(words, trials, strict=True)]
    _marks(panel, list(zip(places, trials, strict=True)), best)
    if labels:
        panel.set_xticks(range(len(labels)), labels)
        panel.set_xlim(-0.5, len(labels) - 0.5)
        panel.tick_params(axis="x", length=0)
    elif log:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(name)
    _grid(panel)


def _marks(panel: Axes, placed: Sequence[tuple[float, Part]], best: Part | None) -> None:
    for x, trial in placed:
        is_best = best is not None and trial["number"] == best["number"]
        panel.plot(x, trial["value"], **(BEST if is_best else PRUNED if trial["state"] == "pruned" else TRAINED))


def _grid(panel: Axes) -> None:
    panel.grid(axis="y", color=PALE, linewidth=0.6)
    panel.set_axisbelow(True)
