"""The page and the picture of a comparison of runs, from the content of compare.json."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from cxr.atomic import write_whole
from cxr.report import drawing, pages
from cxr.report.drawing import BLUE, GREEN, GREY, ORANGE, PALE, SKY, STYLE, VERMILION, WIDTH
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
        title=f"{first} beside {' and '.join(others)}",
        facts=[f"{len(told['runs'])} run{'s' * (len(told['runs']) > 1)}: {name}" for name, told in comparison["candidates"].items()],
        measure="Difference of macro AUROC",
        cards=[_card(name, part) for name, part in comparison["reference_sets"].items()],
        sections=[
            ("", [Block("", MEANING, [_candidates(comparison["candidates"])])]),
            ("Differences", [Block("", (), picture="differences", alt="Difference of AUROC with its 95 % interval per finding and reference set")]),
            *((spell(name), list(_blocks(part))) for name, part in comparison["reference_sets"].items()),
        ],
        protocol=comparison["protocol"],
        attribution=comparison["attribution"],
    )
    with matplotlib.rc_context(STYLE):
        pictures = drawing.save(building / "figures", {"differences": differences(comparison)})
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
    rows: list[Row] = [{"Finding": spell(finding), **_row(row)} for finding, row in part["findings"].items()]
    if part["macro"]["auroc"]:
        mean: Row = {"Finding": f"Mean over {len(part['macro']['findings'])}", "Positive": None}
        rows.append(mean | _numbers(part["macro"]))
    shared = max(rows, key=len)
    yield Block("", left_out, [Table([{column: row.get(column) for column in shared} for row in rows])])
    why = [{"Finding": spell(finding), "Why": row["reason"]} for finding, row in part["findings"].items() if "reason" in row]
    yield Block("Not compared", tables=[Table(why)], folded=True)


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


def differences(comparison: Part) -> Figure:
    """A panel per reference set, a row per finding, a bar per candidate; the mean over findings in the last row."""
    sets = {name: part for name, part in comparison["reference_sets"].items() if any(row["differences"] for row in part["findings"].values())}
    first, *others = comparison["candidates"]
    findings = list(dict.fromkeys(finding for part in sets.values() for finding, row in part["findings"].items() if row["differences"]))
    figure = Figure(figsize=(WIDTH, (0.2 + 0.12 * len(others)) * (len(findings) + 1) + 1.5), layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(1, max(1, len(sets)), sharey=True, squeeze=False)[0]
    rows = [*findings, None]
    for panel, (name, part) in zip(panels, sets.items(), strict=False):
        panel.axvline(0, color=GREY, linewidth=0.9)
        panel.axhline(len(findings) - 0.5, color=PALE, linewidth=0.8)
        for y, finding in enumerate(rows):
            row = part["macro"] if finding is None else part["findings"].get(finding, {})
            for i, other in enumerate(others):
                if told := (row.get("differences") or {}).get(other):
                    at = y + (i - (len(others) - 1) / 2) * 0.6 / len(others)
                    colour = CANDIDATE_COLOURS[(i + 1) % len(CANDIDATE_COLOURS)]
                    clear = (told.get("p_holm", told.get("p_bootstrap")) or 1.0) < 0.05
                    drawing.interval_bar(panel, at, told, colour, marker="D" if finding is None else "o", filled=clear)
        drawing.forest_axes(panel, spell(name).replace(", ", ",\n"))
        panel.set(ylim=(len(rows) - 0.4, -0.7), xlabel="Difference of AUROC")
        panel.set_yticks(range(len(rows)), [*map(spell, findings), "Mean over findings"])
        reach = max(map(abs, panel.get_xlim()))
        panel.set_xlim(-reach, reach)
    note = f"Right of the line: better than {first}.\nBars: 95 % intervals, paired, by patient. Filled: p < 0.05 (findings: after Holm)."
    figure.suptitle(note, x=0.01, ha="left", fontsize=9.5, color=GREY)
    if len(others) > 1:
        handles = [Line2D([], [], color=CANDIDATE_COLOURS[(i + 1) % len(CANDIDATE_COLOURS)], linewidth=2.2, label=other) for i, other in enumerate(others)]
        figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


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
