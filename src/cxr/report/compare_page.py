"""The page and the pictures of a comparison of runs, from the content of compare.json."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from cxr.atomic import write_whole
from cxr.report import drawing, pages
from cxr.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALE, SKY, STYLE, VERMILION, WIDTH
from cxr.report.pages import Block, Card, Page, Row, Table
from cxr.report.wording import difference, interval, number, spell

Part = Mapping[str, Any]

FILES = ("figures", "compare.html", "compare.md", "compare.json")
CANDIDATE_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, SKY)
MEANING = (
    "Differences are of each candidate less the first, on the same films, every draw of patients serving both; so they are sharper than two intervals beside"
    " each other, which may overlap although the difference is clear. p is two-sided, of clustered DeLong (Obuchowski 1997) where a candidate is one run and of"
    " the patient bootstrap where it is the mean over seeds; p (Holm) is adjusted over the findings of a set.",
    "Intervals and p-values are about patients: would other patients of this kind say the same of these very networks? Training again scatters too. Only runs"
    " of several seeds show that, as the standard deviation over seeds; a difference within it is none, however small its p.",
)


def write(folder: Path, comparison: Part) -> None:
    """compare.json, compare.html, compare.md and figures/, built aside so that a folder with a compare.json holds a whole one."""
    building = folder / "compare.partial"
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    first, *others = comparison["candidates"]
    page = Page(
        title=" beside ".join([first, *([" and ".join(others)] if others else [])]),
        facts=[f"{len(told['runs'])} run{'s' * (len(told['runs']) > 1)}: {name}" for name, told in comparison["candidates"].items()],
        measure="Difference of macro AUROC",
        cards=[_card(name, part) for name, part in comparison["reference_sets"].items()],
        sections=[
            ("", [Block("", MEANING, [_candidates(comparison["candidates"])])]),
            ("AUROC of every candidate", [Block("", (), picture="aurocs", alt="AUROC of every candidate per finding and reference set")]),
            ("Differences", [Block("", (), picture="differences", alt="Difference of AUROC with its 95 % interval per finding and reference set")]),
            *((spell(name), list(_blocks(part))) for name, part in comparison["reference_sets"].items()),
        ],
        protocol=comparison["protocol"],
        attribution=comparison["attribution"],
    )
    with matplotlib.rc_context(STYLE):
        drawn = {"aurocs": aurocs(comparison), "differences": differences(comparison)}
        pictures = drawing.save(building / "figures", {title: figure for title, figure in drawn.items() if figure})
    pages.write(building, "compare", page, pictures)
    write_whole(building / "compare.json", (json.dumps(comparison, indent=1, allow_nan=False) + "\n").encode())
    (folder / "compare.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name in FILES:
        (building / name).rename(folder / name)
    building.rmdir()


def _card(name: str, part: Part) -> Card:
    told = part["macro"].get("differences") or {}
    if not told:
        return Card(spell(name), _kind(part), "", "", [part["macro"].get("reason", "no difference")])
    lines = [f"{part['n_images']:,} films, {part['n_patients']:,} patients", f"mean over {len(part['macro']['findings'])} findings"]
    other, found = next(iter(told.items()))
    lines += [f"{others}: {difference(more)}" for others, more in list(told.items())[1:]]
    return Card(spell(name), _kind(part), f"{found['value']:+.3f}".replace("-", "−"), interval(found), [other, *lines] if len(told) > 1 else lines)


def _kind(part: Part) -> str:
    return "radiologists" if part["adjudicated"] else "text-mined"


def _candidates(told: Part) -> Table:
    return Table([{"Candidate": name, "Seeds": ", ".join(map(str, of["seeds"])), "Run folders": ", ".join(of["runs"])} for name, of in told.items()])


def _blocks(part: Part) -> Iterator[Block]:
    left_out = [f"{part['n_left_out']:,} films that not every run predicted are left out."] if part["n_left_out"] else []
    yield Block("", left_out, [table(part)])
    why = [{"Finding": spell(finding), "Why": row["reason"]} for finding, row in part["findings"].items() if "reason" in row]
    yield Block("Not compared", tables=[Table(why)], folded=True)


def table(part: Part) -> Table:
    """A row per finding of one reference set: every candidate's AUROC, the differences and their p-values; the mean in the last row."""
    rows: list[Row] = [{"Finding": spell(finding), **_row(row)} for finding, row in part["findings"].items()]
    if part["macro"]["auroc"]:
        mean: Row = {"Finding": f"Mean over {len(part['macro']['findings'])}", "Positive": None}
        rows.append(mean | _numbers(part["macro"]))
    shared = max(rows, key=len)
    return Table([{column: row.get(column) for column in shared} for row in rows])


def _row(row: Part) -> Row:
    return {"Positive": row["n_pos"]} | (_numbers(row) if row["auroc"] else {})


def _numbers(row: Part) -> Row:
    cells: Row = {}
    for name, area in row["auroc"].items():
        scatter = f", SD over {area['n_seeds']} seeds {area['sd_seeds']:.3f}" if area["n_seeds"] > 1 else ""
        cells[name] = number(area) + scatter
    several = len(row["differences"]) > 1
    for name, found in row["differences"].items():
        of = f" ({name})" if several else ""
        cells[f"Difference{of}"] = difference(found)
        cells[f"p{of}"] = _p(found["p"] if "p" in found else found["p_bootstrap"])
        cells[f"p (Holm){of}"] = _p(found.get("p_holm"))
    return cells


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def aurocs(comparison: Part) -> Figure | None:
    """A panel per reference set, a row per finding, a dot per candidate and a tick for each of its seeds; the mean over findings in the last row.

    None where no set has a number.
    """
    if not _told(comparison, "auroc"):
        return None
    colour_of = _colours(comparison)
    figure, panels, findings = _forest(comparison, "auroc", row_height=0.3)
    for panel, (name, part) in zip(panels, _told(comparison, "auroc").items(), strict=True):
        for y, finding in enumerate([*findings, None]):
            area = (part["macro"] if finding is None else part["findings"].get(finding, {})).get("auroc") or {}
            for candidate, colour in colour_of.items():
                for value in area.get(candidate, {}).get("by_seed", []):
                    panel.plot(value, y, marker="|", markersize=11, markeredgewidth=1.2, color=colour, alpha=0.75, zorder=1.5)
            values = {colour: area[candidate]["value"] for candidate, colour in colour_of.items() if candidate in area}
            drawing.dumbbell(panel, y, values, marker="D" if finding is None else "o")
        drawing.forest_axes(panel, spell(name).replace(", ", ",\n"))
        panel.set_xlabel("AUROC")
        left, right = panel.get_xlim()
        panel.set_xlim(left, min(right, 1.0))
    seeds = any(len(told["runs"]) > 1 for told in comparison["candidates"].values())
    note = f"Dots: AUROC of each candidate{', the mean over its seeds, which are the ticks' if seeds else ''}. Mind the scales: they differ."
    _explain(figure, note, colour_of)
    return figure


def differences(comparison: Part) -> Figure | None:
    """A panel per reference set, a row per finding, a bar per candidate; the mean over findings in the last row.

    None where there is no difference, as of the seeds of a single candidate.
    """
    if not _told(comparison, "differences"):
        return None
    (first, _), *others = _colours(comparison).items()
    figure, panels, findings = _forest(comparison, "differences", row_height=0.2 + 0.12 * len(others))
    for panel, (name, part) in zip(panels, _told(comparison, "differences").items(), strict=True):
        panel.axvline(0, color=GREY, linewidth=0.9)
        for y, finding in enumerate([*findings, None]):
            row = part["macro"] if finding is None else part["findings"].get(finding, {})
            for i, (other, colour) in enumerate(others):
                if told := (row.get("differences") or {}).get(other):
                    at = y + (i - (len(others) - 1) / 2) * 0.6 / len(others)
                    clear = (told.get("p_holm", told.get("p_bootstrap")) or 1.0) < 0.05
                    drawing.interval_bar(panel, at, told, colour, marker="D" if finding is None else "o", filled=clear)
        drawing.forest_axes(panel, spell(name).replace(", ", ",\n"))
        panel.set_xlabel("Difference of AUROC")
        reach = max(map(abs, panel.get_xlim()))
        panel.set_xlim(-reach, reach)
    note = f"Right of the line: better than {first}.\nBars: 95 % intervals, paired, by patient. Filled: p < 0.05 (findings: after Holm)."
    _explain(figure, note, dict(others) if len(others) > 1 else {})
    return figure


def learning_curves(metrics: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """What validation said after every epoch, a line per run; a ring where the checkpoint was taken.

    Args:
        metrics: candidate -> metrics.csv of each of its runs, which share its colour. A run without one, such as an ensemble, is left out.
    """
    figure = Figure(figsize=(WIDTH, 3.9), layout=ConstrainedLayoutEngine(wspace=0.08))
    panels = dict(zip(("val/loss", "val/auroc_macro"), figure.subplots(1, 2), strict=True))
    colours = dict(zip(metrics, itertools.cycle(CANDIDATE_COLOURS), strict=False))
    for name, runs in metrics.items():
        for run in runs:
            validated = run.dropna(subset=["val/auroc_macro"]) if "val/auroc_macro" in run else pd.DataFrame()
            if validated.empty:
                continue
            best = validated.iloc[[int(validated["val/auroc_macro"].to_numpy().argmax())]]
            for key, panel in panels.items():
                panel.plot(validated["epoch"] + 1, validated[key], color=colours[name], linewidth=1.6, marker="o", markersize=3.5)
                ring = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6}
                panel.plot(best["epoch"] + 1, best[key], marker="o", color=colours[name], **ring)
    for key, panel in panels.items():
        panel.set_title(key, loc="left", fontsize=10, fontweight="bold", color=INK)
        panel.set_xlabel("Epochs trained")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="y", color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
    _explain(figure, "A line per run; the ring is the epoch whose checkpoint was taken.", colours)
    return figure


def _told(comparison: Part, what: str) -> dict[str, Part]:
    """The reference sets with an auroc, or with differences, of some finding."""
    return {name: part for name, part in comparison["reference_sets"].items() if any(row[what] for row in part["findings"].values())}


def _colours(comparison: Part) -> dict[str, str]:
    return dict(zip(comparison["candidates"], itertools.cycle(CANDIDATE_COLOURS), strict=False))


def _forest(comparison: Part, what: str, *, row_height: float) -> tuple[Figure, Sequence[Axes], list[str]]:
    """A panel for every set in which `what` is told, with a row, `row_height` inches high, for every finding and for their mean; and the findings."""
    sets = _told(comparison, what)
    findings = list(dict.fromkeys(finding for part in sets.values() for finding, row in part["findings"].items() if row[what]))
    figure = Figure(figsize=(WIDTH, row_height * (len(findings) + 1) + 1.5), layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel in panels:
        panel.axhline(len(findings) - 0.5, color=PALE, linewidth=0.8)
        panel.set(ylim=(len(findings) + 0.6, -0.7))
        panel.set_yticks(range(len(findings) + 1), [*map(spell, findings), "Mean over findings"])
    return figure, panels, findings


def _explain(figure: Figure, note: str, colour_of: Mapping[str, str]) -> None:
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    if colour_of:
        handles = [Line2D([], [], color=colour, linewidth=2.2, label=name) for name, colour in colour_of.items()]
        figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)


def summary(comparison: Part) -> str:
    """Macro AUROC of every set and its difference, in a few aligned lines."""
    rows = []
    for name, part in comparison["reference_sets"].items():
        for other, found in (part["macro"].get("differences") or {}).items():
            area = part["macro"]["auroc"]
            first = next(iter(area))
            rows.append({"macro AUROC": spell(name), "films": part["n_images"], first: number(area[first]), "other": other, "": number(area[other])})
            rows[-1] |= {"difference": difference(found), "p": _p(found["p_bootstrap"])}
    return "\n".join(Table(rows).aligned()) if rows else "No set has a mean to compare"
