"""What every picture shares: colours, style, square panels, bars with intervals, and the marks of those who say yes or no.

Colours are Okabe & Ito's (2008), which colour-blind readers tell apart. A figure is 11 inches wide and shown 1,100 pixels wide: a point of type is 1.4 pixels.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    "axes.linewidth": 0.8,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
}

Part = Mapping[str, Any]
Sets = Mapping[str, Part]


def square_panels(
    n: int, *, columns: int, note: str, labels: tuple[str, str], legend: float = 0.0, above: float = 0.8, gap: float = 0.3
) -> tuple[Figure, list[Axes]]:
    """Rows of `n` square panels from 0 to 1 under a note of one or more lines; the labels of x and y stand at the outer ones.

    In inches: `legend` is kept free under the note, `above` over each row for titles and numbers, `gap` between two panels of a row.
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
    for i, panel in enumerate(panels[:n]):
        left, bottom = i % columns == 0, i + columns >= n
        rescale(panel, 1.0)
        panel.grid(color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(length=0, labelleft=left, labelbottom=bottom)
        panel.set(xlabel=labels[0] if bottom else "", ylabel=labels[1] if left else "")
    write_note(figure, note)
    return figure, list(panels[:n])


def rescale(panel: Axes, scale: float) -> None:
    """From 0 to `scale` both ways."""
    ticks = [0, scale / 2, scale]
    words, limits = [f"{tick:g}" for tick in ticks], (-0.01 * scale, 1.01 * scale)
    panel.set(xlim=limits, ylim=limits, xticks=ticks, yticks=ticks, xticklabels=words, yticklabels=words)


def head(panel: Axes, title: str, told: str) -> None:
    """A title and up to two lines of numbers above a panel."""
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=31)
    panel.text(0, 1.05, told, transform=panel.transAxes, color=GREY, fontsize=8.5, linespacing=1.35)


def write_note(figure: Figure, note: str) -> None:
    figure.text(LEFT / WIDTH, 1 - 0.1 / figure.get_size_inches()[1], note, ha="left", va="top", fontsize=9.5, color=GREY, linespacing=1.4)


def legend(figure: Figure, note: str, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Under the note, what each mark or line is."""
    handles = [Line2D([], [], **{key: value for key, value in look.items() if key not in ("zorder", "clip_on")}, label=label) for label, look in looks.items()]
    box = ((LEFT - 0.1) / WIDTH, 1 - (0.16 + 0.2 * len(note.splitlines())) / figure.get_size_inches()[1])
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=box, ncols=4, frameon=False, borderpad=0, handletextpad=0.4, columnspacing=1.4, fontsize=9)


def save(folder: Path, figures: Mapping[str, Figure]) -> dict[str, Path]:
    """title -> PNG."""
    for title, figure in figures.items():
        figure.savefig(folder / f"{title}.png", metadata={"Software": None})
    return {title: folder / f"{title}.png" for title in figures}


def interval_bar(panel: Axes, y: float, estimate: Mapping[str, float] | None, colour: str, *, marker: str, filled: bool) -> None:
    """A number and its interval in a row of a forest; the word where there is none."""
    if estimate is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        panel.text(0.02, y, "undefined", transform=panel.get_yaxis_transform(), color=GREY, style="italic", va="center", bbox=box)
        return
    panel.plot([estimate["lo"], estimate["hi"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", clip_on=False)
    face = colour if filled else "white"
    panel.plot(estimate["value"], y, marker=marker, markersize=6.5, color=colour, markerfacecolor=face, markeredgewidth=1.5, clip_on=False)


def dumbbell(panel: Axes, y: float, values: Mapping[str, float | None], *, marker: str = "o", joined: bool = True) -> None:
    """Numbers of one thing in a row of a forest: colour -> number, a line from the smallest to the largest."""
    told = {colour: value for colour, value in values.items() if value is not None}
    if joined and told:
        panel.plot([min(told.values()), max(told.values())], [y, y], color=PALE, linewidth=3.0, solid_capstyle="round", zorder=1, clip_on=False)
    for colour, value in told.items():
        panel.plot(value, y, marker=marker, markersize=7, color=colour, markeredgecolor="white", markeredgewidth=0.8, linestyle="none", clip_on=False)


def forest_axes(panel: Axes, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=8)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.grid(axis="x", color=PALE, linewidth=0.6)
    panel.set_axisbelow(True)


# --- who says yes or no, in ROC space ---------------------------------------------------------------------------------------------------------------


ROC_AXES = ("1 − specificity", "Sensitivity")
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


def draw_readers(panel: Axes, told: Part, finding: str) -> None:
    """Every reader who is shown, and all reads together; `told` has performance (way of counting uncertain reads -> numbers), shown and held_out."""
    as_no, held_out = told["performance"]["no"], told["held_out"]
    draw_mark(panel, as_no["pooled"][finding], POOLED, gid="pooled")
    for reader in told["shown"]:
        leaf = as_no["by_reader"][reader][finding]
        if reader in held_out:
            draw_mark(panel, leaf, HELD_OUT[held_out.index(reader)], gid=f"held_out:{reader}", cross=True)
            continue
        size = LEAST_MARK + MARK_PER_ROOT_FILM * leaf["n_images"] ** 0.5
        draw_mark(panel, leaf, PART_OF_IT | {"markersize": size}, gid=f"reader:{reader}")
        for policy, look in ELSEWHERE.items():
            elsewhere = told["performance"].get(policy, as_no)["by_reader"][reader][finding]
            here, there = _place(leaf), _place(elsewhere)
            if here and there and here != there:
                where = zip(here, there, strict=True) if policy == "yes" else [[place] for place in there]
                panel.plot(*where, **look, color=GREY, zorder=3, clip_on=False, gid=f"{policy}:{reader}")


def _place(leaf: Part) -> tuple[float, float] | None:
    return (1 - leaf["specificity"]["value"], leaf["sensitivity"]["value"]) if leaf["sensitivity"] and leaf["specificity"] else None


def draw_mark(panel: Axes, leaf: Part, look: Mapping[str, Any], *, gid: str, cross: bool = False) -> None:
    """Whoever said yes or no; nothing where sensitivity or specificity is undefined."""
    if place := _place(leaf):
        panel.plot(*place, **look, gid=gid)
    if place and cross:
        line = {"color": look["color"], "linewidth": 1.1, "alpha": 0.6, "zorder": 3, "clip_on": False}
        panel.plot([1 - leaf["specificity"]["hi"], 1 - leaf["specificity"]["lo"]], [place[1]] * 2, **line)
        panel.plot([place[0]] * 2, [leaf["sensitivity"]["lo"], leaf["sensitivity"]["hi"]], **line)
