"""The page and the pictures of localisation, from the content of localization.json and a few films with their heat maps."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cxr.atomic import sync, write_whole
from cxr.report import drawing, pages, render
from cxr.report.drawing import BLUE, GREY, INK, ORANGE, SKY, STYLE, WIDTH
from cxr.report.localization import ALL, SOURCES, Shown
from cxr.report.pages import Block, Card, Page, Row, Table
from cxr.report.wording import difference, interval, number, percent, spell

Part = Mapping[str, Any]

LOOKS = {"model": (BLUE, "o", True), "centre": (ORANGE, "s", False), "random": (GREY, "D", False)}
NAMED = {"model": "Model", "centre": "Centre of the film", "random": "Random point"}
KEEP = "This page shows films. Keep it where the films may be, and pass it on only to whom they may be shown."
MEANING = (
    "Pointing game: is the hottest pixel of the finding's heat map within the radiologist's box? A random point is as often as the box is large; the centre of"
    " the film knows that hearts are in the middle. A model that does no better than these two does not show where the finding is.",
    "A heat map says which places raised a number. It is no evidence that the network reasons as a reader does: maps of some methods hardly change when the"
    " weights are replaced by random ones (Adebayo et al. 2018), and all of seven methods localised findings worse than radiologists (Saporta et al. 2022).",
)
OVERLAP = (
    "A map is cut at a heat threshold, and the box around the region with its peak is held against the radiologist's. IoU is what both have in common over what"
    " both cover; IoBB over the detected box alone. The hit rate is the share of boxes at which IoU, or IoBB, is at least so large.",
    "The threshold of each finding was chosen on half of the patients, by the mean IoU; all numbers here are of the other half. The centre and the random point"
    " are round spots, cut at thresholds chosen in the same way.",
)
EXTREMES = (
    "The best, the median and the worst of the boxes that were not used to choose the threshold, by IoU. Warm and bright is hot; where a map is cold, the film"
    " is as it is."
)


@dataclass(frozen=True)
class Overlay:
    """A film with a heat map over it.

    Attributes:
        shown: which box, and what was detected.
        image_id: the film's.
        picture: (S, S, 3) uint8, the stored film with the map.
        box, detected: (4,) corners in pixels of the picture; NaN where nothing was detected.
        peak: (2,)
    """

    shown: Shown
    image_id: str
    picture: np.ndarray
    box: np.ndarray
    detected: np.ndarray
    peak: np.ndarray


def write(folder: Path, content: Part, overlays: Sequence[Overlay]) -> None:
    """localization.json, localization.html, localization.md and figures/: all of them or none; what was there before is replaced."""
    building = folder.with_name(folder.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    findings = content["findings"]
    by_finding = {finding: [one for one in overlays if one.shown.finding == finding] for finding in findings if finding != ALL}
    with matplotlib.rc_context(STYLE):
        figures = {"pointing": draw(content)} | {f"overlays_{finding}": draw_overlays(ones) for finding, ones in by_finding.items() if ones}
        pictures = drawing.save(building / "figures", figures)
    protocol = content["protocol"]
    maps = protocol["heat_maps"]
    cells = " and ".join(map(str, maps["cells_a_side"].values()))
    page = Page(
        title="Where the model looks",
        facts=[f"{protocol['model']} at {protocol['image_size']} pixels", f"{maps['method']}, {cells} cells a side"],
        measure="Pointing game",
        cards=list(_cards(content)),
        sections=[
            ("", [Block(warning=KEEP, paragraphs=MEANING, picture="pointing", alt="Pointing game and mean IoU of the model, the centre and a random point")]),
            ("Pointing game", [Block(tables=[Table([_pointing(finding, told) for finding, told in findings.items()])])]),
            ("Overlap", list(_overlap(findings))),
            ("Overlays", list(_overlay_blocks(by_finding))),
        ],
        protocol=protocol,
        attribution=render.attribution(protocol["data"], False),
    )
    pages.write(building, "localization", page, pictures)
    write_whole(building / "localization.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    outdated = folder.with_name(folder.name + ".outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if folder.exists():
        folder.rename(outdated)
    building.rename(folder)
    sync(folder.parent)
    shutil.rmtree(outdated, ignore_errors=True)


def _cards(content: Part) -> Iterator[Card]:
    told = content["findings"][ALL]
    present = f"{told['n_boxes']:,} of {content['n_listed']:,} boxes, {told['n_patients']:,} patients"
    lines = {
        "model": [present, f"less the centre: {difference(told['pointing_less_centre'])}"],
        "centre": ["the middle of the network's input"],
        "random": [f"expected: {told['pointing_by_chance']:.3f}, the mean share of the boxes"],
    }
    for source in SOURCES:
        estimate = told["pointing"][source]
        yield Card(NAMED[source], "all boxes", f"{estimate['value']:.3f}", interval(estimate), lines[source])


def _pointing(finding: str, told: Part) -> Row:
    cells: Row = {"Finding": spell(finding), "Boxes": told["n_boxes"], "Patients": told["n_patients"], "Size of a box": percent(told["median_box_share"])}
    cells |= {NAMED[source]: number(told["pointing"][source]) for source in SOURCES}
    return cells | {"By chance": f"{told['pointing_by_chance']:.3f}", "Model less centre": difference(told["pointing_less_centre"])}


def _overlap(findings: Part) -> Iterator[Block]:
    rows: list[Row] = []
    for finding, told in findings.items():
        heat = told.get("heat_threshold")
        chosen = f"{heat['model']:g}" + f" (of {told['threshold_of'] or 'no box'})".lower() * (told["threshold_of"] != finding) if heat else "as above"
        row: Row = {"Finding": spell(finding), "Boxes": told["n_boxes_judged"], "Patients": told["n_patients_judged"], "Heat threshold": chosen}
        rows.append(row | {f"Mean IoU, {NAMED[source].lower()}": number(told["mean_iou"][source]) for source in SOURCES})
    yield Block(paragraphs=OVERLAP, tables=[Table(rows)])
    judged = {finding: told for finding, told in findings.items() if told["n_boxes_judged"]}
    for source in SOURCES:
        tables = []
        for name, words in (("iou", "IoU"), ("iobb", "IoBB")):
            rates: list[Row] = [
                {"Finding": spell(finding), **{f"{words} ≥ {least}": _short(rate) for least, rate in told["hit_rate"][source][name].items()}}
                for finding, told in judged.items()
            ]
            tables.append(Table(rates, f"Hit rate at {words}"))
        yield Block(f"Hit rates: {NAMED[source].lower()}", tables=tables, folded=source != "model")


def _short(rate: Mapping[str, float]) -> str:
    return "{value:.2f} [{lo:.2f}, {hi:.2f}]".format(**rate)  # seven of them stand in a row


def _overlay_blocks(by_finding: Mapping[str, list[Overlay]]) -> Iterator[Block]:
    for k, finding in enumerate(by_finding):
        alt = f"Films with {spell(finding)}, heat maps and boxes"
        yield Block(spell(finding), [EXTREMES] if k == 0 else [], picture=f"overlays_{finding}", alt=alt)


def draw(content: Part) -> Figure:
    """Pointing game and mean IoU, a row per finding, with intervals."""
    findings = content["findings"]
    figure = Figure(figsize=(WIDTH, 0.46 * len(findings) + 1.6), layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, key, title in zip(panels, ("pointing", "mean_iou"), ("Pointing game, all boxes", "Mean IoU, half of the patients"), strict=True):
        for y, told in enumerate(findings.values()):
            for shift, source in zip((-0.24, 0.0, 0.24), SOURCES, strict=True):
                colour, marker, filled = LOOKS[source]
                drawing.interval_bar(panel, y + shift, told[key][source], colour, marker=marker, filled=filled)
        drawing.forest_axes(panel, title)
        panel.set(ylim=(len(findings) - 0.4, -0.6), xlim=(-0.02, 1.02))
        panel.axhline(len(findings) - 1.5, color=GREY, linewidth=0.8)
    panels[0].set_yticks(range(len(findings)), [f"{spell(finding)} ({told['n_boxes']})" for finding, told in findings.items()])
    looks = [Line2D([], [], color=c, marker=m, markerfacecolor=c if full else "white", linewidth=2.2, label=NAMED[s]) for s, (c, m, full) in LOOKS.items()]
    figure.legend(handles=looks, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_overlays(overlays: Sequence[Overlay]) -> Figure:
    """Films of one finding beside each other; the radiologist's box is drawn through, the detected one dashed, the peak a cross."""
    columns, gap, told = 3, 0.2, 0.55
    side = (WIDTH - gap * (columns - 1)) / columns
    figure = Figure(figsize=(WIDTH, side + told))
    for k, one in enumerate(overlays):
        panel = figure.add_axes((k * (side + gap) / WIDTH, told / (side + told), side / WIDTH, side / (side + told)))
        pixels = len(one.picture)
        panel.imshow(one.picture, extent=(0, pixels, pixels, 0), interpolation="lanczos")  # coordinates are edges
        panel.set_axis_off()
        _rectangle(panel, one.box, color="white", linewidth=2.0)
        if np.isfinite(one.detected).all():
            _rectangle(panel, one.detected, color=SKY, linewidth=1.8, linestyle=(0, (4, 2)))
            panel.plot(*one.peak, "x", color=SKY, markersize=9, markeredgewidth=2.2)
        panel.text(
            0, -0.03, f"{one.shown.which.capitalize()}: IoU {one.shown.iou:.2f}", transform=panel.transAxes, va="top", fontsize=10, fontweight="bold", color=INK
        )
        panel.text(1, -0.03, one.image_id, transform=panel.transAxes, va="top", ha="right", fontsize=8, color=GREY)
        if k == 0:
            words = "white: the radiologist's box; blue, dashed: detected; cross: the peak"
            panel.text(0, -0.10, words, transform=panel.transAxes, va="top", fontsize=8.5, color=GREY)
    return figure


def _rectangle(panel: Axes, corners: np.ndarray, **look: Any) -> None:
    panel.add_patch(Rectangle((corners[0], corners[1]), corners[2] - corners[0], corners[3] - corners[1], fill=False, **look))


def summary(content: Part) -> str:
    """The pointing game and the mean IoU of every finding, in aligned lines."""
    rows: list[Row] = []
    for finding, told in content["findings"].items():
        row: Row = {"Finding": spell(finding), "boxes": told["n_boxes"]}
        row |= {f"pointing, {source}": number(told["pointing"][source]) for source in SOURCES}
        rows.append(row | {"mean IoU": number(told["mean_iou"]["model"]), "of": told["n_boxes_judged"]})
    return "\n".join(Table(rows).aligned())
