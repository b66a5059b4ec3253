"""What every picture shares: colours, style, square panels, bars with intervals, and the marks of those who say yes or no.

Colours are Okabe & Ito's (2008), which colour-blind readers tell apart. A figure is 11 inches wide and shown 1,100 pixels wide: a point of type is 1.4 pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00"
INK, GREY, PALE = "#222222", "#6b6b6b", "#d9d9d9"
COLOURS = {"nih_val": SKY, "nih_test": BLUE, "all_findings_test": VERMILION, "four_findings_validation": ORANGE, "four_findings_test": GREEN}

WIDTH = 11.0  # inches
LEFT, RIGHT, BOTTOM = 0.65, 0.15, 0.5  # inches beside and below square panels
DASHED: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 3))}
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


def square_panels(n: int, *, columns: int, note: str, legend: float = 0.0, above: float = 0.8, gap: float = 0.3) -> tuple[Figure, list[Axes]]:
    """Rows of square panels under a note.

    Args:
        n: panels.
        columns: of a full row.
        note: what the figure shows, one or more lines at its top.
        legend: inches kept free between the note and the panels.
        above: inches above each row for the panels' titles and numbers.
        gap: inches between two panels of a row.
    """
    side = (WIDTH - LEFT - RIGHT - gap * (columns - 1)) / columns
    n_rows = math.ceil(n / columns)
    top = 0.1 + 0.2 * len(note.splitlines()) + legend
    height = top + n_rows * (side + above) + BOTTOM
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(n_rows, columns, squeeze=False).ravel()
    edges = {"left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH, "bottom": BOTTOM / height, "top": 1 - (top + above) / height}
    figure.subplots_adjust(**edges, wspace=gap / side, hspace=above / side)
    for panel in panels[n:]:
        panel.remove()
    figure.text(LEFT / WIDTH, 1 - 0.1 / height, note, ha="left", va="top", fontsize=9.5, color=GREY, linespacing=1.4)
    return figure, list(panels[:n])


def frame(panel: Axes, title: str, told: str, *, left: bool, bottom: bool, labels: tuple[str, str]) -> None:
    """Axes from 0 to 1 with a title and up to two lines of numbers above; `labels` of x and y stand at the outer panels."""
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=31)
    panel.text(0, 1.05, told, transform=panel.transAxes, color=GREY, fontsize=8.5, linespacing=1.35)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"], yticklabels=["0", "0.5", "1"])
    panel.grid(color=PALE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelleft=left, labelbottom=bottom)
    if left:
        panel.set_ylabel(labels[1])
    if bottom:
        panel.set_xlabel(labels[0])


def interval_bar(panel: Axes, y: float, estimate: Mapping[str, float] | None, colour: str, *, marker: str, filled: bool) -> None:
    """A number and its interval in a row of a forest; the word where there is none."""
    if estimate is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        panel.text(0.02, y, "undefined", transform=panel.get_yaxis_transform(), color=GREY, style="italic", va="center", bbox=box)
        return
    panel.plot([estimate["lo"], estimate["hi"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", clip_on=False)
    face = colour if filled else "white"
    panel.plot(estimate["value"], y, marker=marker, markersize=6.5, color=colour, markerfacecolor=face, markeredgewidth=1.5, clip_on=False)


def forest_axes(panel: Axes, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=8)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.grid(axis="x", color=PALE, linewidth=0.6)
    panel.set_axisbelow(True)
