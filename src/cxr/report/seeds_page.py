"""The page and the picture of one recipe trained with several seeds, from the content of seeds.json."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cxr.atomic import write_whole
from cxr.report import drawing, pages
from cxr.report.drawing import COLOURS, GREY, INK, PALE, STYLE, WIDTH
from cxr.report.pages import Block, Card, Page, Row, Table
from cxr.report.wording import interval, number, spell

Part = Mapping[str, Any]

FILES = ("figures", "seeds.html", "seeds.md", "seeds.json")
MEANING = (
    "Every number is the mean of the AUROCs of the seeds: how good a training of this recipe is on average. The interval is about patients: would others"
    " say the same? SD is about training: how far another seed lies from the mean, as a rule.",
    "A difference between two recipes, or two trials of a sweep, that is small beside the SD may be nothing but the seed; one that is small beside the interval"
    " may be nothing but the patients.",
)


def write(folder: Path, seeds: Part) -> None:
    """seeds.json, seeds.html, seeds.md and figures/, built aside so that a folder with a seeds.json holds a whole one."""
    building = folder / "seeds.partial"
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    ((name, told),) = seeds["candidates"].items()
    sets = seeds["reference_sets"]
    page = Page(
        title=f"{name}: {len(told['seeds'])} seeds",
        facts=[f"seeds {', '.join(map(str, told['seeds']))}", *told["runs"]],
        measure="Mean macro AUROC",
        cards=[_card(key, part, name) for key, part in sets.items()],
        sections=[
            ("", [Block("", MEANING, picture="seeds", alt="AUROC of every seed, their mean and its 95 % interval, per finding and reference set")]),
            *((spell(key), list(_blocks(part, name, told["seeds"]))) for key, part in sets.items()),
        ],
        protocol=seeds["protocol"],
        attribution=seeds["attribution"],
    )
    with matplotlib.rc_context(STYLE):
        pictures = drawing.save(building / "figures", {"seeds": draw(seeds)})
    pages.write(building, "seeds", page, pictures)
    write_whole(building / "seeds.json", (json.dumps(seeds, indent=1, allow_nan=False) + "\n").encode())
    (folder / "seeds.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for file in FILES:
        (building / file).rename(folder / file)
    building.rmdir()


def _card(key: str, part: Part, name: str) -> Card:
    kind = "radiologists" if part["adjudicated"] else "text-mined"
    if not part["macro"]["auroc"]:
        return Card(spell(key), kind, "", "", [part["macro"].get("reason", "no finding belongs to the mean")])
    area = part["macro"]["auroc"][name]
    lines = [f"mean over {len(part['macro']['findings'])}", f"SD over seeds {area['sd_seeds']:.4f}", f"{part['n_images']:,} films"]
    return Card(spell(key), kind, f"{area['value']:.3f}", interval(area), lines)


def _blocks(part: Part, name: str, seeds: list[int]) -> Iterator[Block]:
    rows: list[Row] = [{"Finding": spell(finding), "Positive": row["n_pos"]} | _cells(row, name, seeds) for finding, row in _evaluated(part).items()]
    if part["macro"]["auroc"]:
        rows.append({"Finding": f"Mean over {len(part['macro']['findings'])}", "Positive": None} | _cells(part["macro"], name, seeds))
    yield Block("", (), [Table(rows)])
    yield Block(
        "Without a number", tables=[Table([{"Finding": spell(f), "Why": row["reason"]} for f, row in part["findings"].items() if "reason" in row])], folded=True
    )


def _evaluated(part: Part) -> dict[str, Part]:
    return {finding: row for finding, row in part["findings"].items() if row["auroc"]}


def _cells(row: Part, name: str, seeds: list[int]) -> Row:
    area = row["auroc"][name]
    told: Row = {"Mean AUROC [95 % interval by patient]": number(area), "SD over seeds": f"{area['sd_seeds']:.4f}"}
    return told | {f"Seed {seed}": f"{value:.3f}" for seed, value in zip(seeds, area["by_seed"], strict=True)}


def draw(seeds: Part) -> Figure:
    """A panel per reference set, a row per finding: a dot per seed, their mean, and the interval by patient; the mean over findings in the last row."""
    ((name, _),) = seeds["candidates"].items()
    sets = {key: part for key, part in seeds["reference_sets"].items() if _evaluated(part)}
    longest_first = sorted(map(_evaluated, sets.values()), key=len, reverse=True)
    findings = list(dict.fromkeys(finding for told in longest_first for finding in told))
    rows = [*findings, None]
    figure = Figure(figsize=(WIDTH, 0.34 * len(rows) + 1.5), layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(1, max(1, len(sets)), sharey=True, squeeze=False)[0]
    for panel, (key, part) in zip(panels, sets.items(), strict=False):
        panel.axhline(len(findings) - 0.5, color=PALE, linewidth=0.8)
        for y, finding in enumerate(rows):
            areas = part["macro"]["auroc"] if finding is None else part["findings"].get(finding, {}).get("auroc")
            if areas:
                drawing.interval_bar(panel, y - 0.14, areas[name], COLOURS[key], marker="D" if finding is None else "o", filled=True)
                panel.plot(areas[name]["by_seed"], [y + 0.24] * len(areas[name]["by_seed"]), "|", color=INK, markersize=6.5, markeredgewidth=1.1)
        drawing.forest_axes(panel, spell(key).replace(", ", ",\n"))
        panel.set(ylim=(len(rows) - 0.4, -0.7), xlabel="AUROC")
        panel.set_yticks(range(len(rows)), [*map(spell, findings), "Mean over findings"])
    note = "Mark and bar: mean over seeds with its 95 % interval, by patient. Strokes below: the seeds, one each."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return figure


def summary(seeds: Part) -> str:
    """Macro AUROC of every set over seeds, in a few aligned lines."""
    rows = []
    for key, part in seeds["reference_sets"].items():
        for area in (part["macro"]["auroc"] or {}).values():
            rows.append({"macro AUROC": spell(key), "films": part["n_images"], "mean over seeds": number(area), "SD over seeds": f"{area['sd_seeds']:.4f}"})
    return "\n".join(Table(rows).aligned()) if rows else "No set has a mean over findings"
