"""What a page is made of, and how it is written: as HTML that needs no other file, and as markdown. Both say the same."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr.report.wording import NOTHING, number, spell

OF_THE_MACHINE = ("host", "data_root", "store", "expert_labels")  # of the provenance
MINIATURE = "This run used the miniature, whose films are drawn by a program. The numbers show that everything works and say nothing about chest X-rays."
COUNTS = re.compile(r"–|\d{1,3}(,\d{3})*(\.\d+)?( %)?( (of|/) \d{1,3}(,\d{3})*)?")

Cell = str | float | Mapping[str, float] | None  # words, a count, a plain number, one with its interval, or none
Row = dict[str, Cell]  # heading -> cell


@dataclass(frozen=True)
class Table:
    """Rows with the same headings."""

    rows: Sequence[Mapping[str, Cell]]
    title: str = ""

    @property
    def columns(self) -> list[str]:
        return list(self.rows[0])

    @property
    def words(self) -> list[list[str]]:
        return [[_in_words(cell) for cell in row.values()] for row in self.rows]

    @property
    def counts(self) -> set[int]:
        """The columns that are aligned right; the first names the row."""
        return {i for i, cells in enumerate(zip(*self.words, strict=True)) if i and all(map(COUNTS.fullmatch, cells))}

    @property
    def frame(self) -> pd.DataFrame:
        """For a notebook, in the words of the page."""
        return pd.DataFrame(self.words, columns=pd.Index(self.columns)).set_index(self.columns[0])

    def aligned(self) -> list[str]:
        """Lines for the console."""
        lines, counts = [self.columns, *self.words], self.counts
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        return ["  ".join(f"{line[i]:{'>' if i in counts else '<'}{width}}" for i, width in enumerate(widths)).rstrip() for line in lines]


def per_finding(told: Mapping[str, Any], cells: Callable[[Any], Row], title: str = "") -> Table:
    """A row per finding, of what `cells` makes of its numbers."""
    return Table([{"Finding": spell(finding)} | cells(numbers) for finding, numbers in told.items()], title)


@dataclass(frozen=True)
class Block:
    """A picture and tables under one heading with what a reader must know to read them; a folded one opens on demand."""

    title: str = ""
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    picture: str = ""
    alt: str = ""
    warning: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Card:
    """A headline: one reference set and its number, empty where there is none; `warnings` are those of its lines that warn."""

    name: str
    kind: str
    number: str
    interval: str
    lines: Sequence[str]
    warnings: Sequence[str] = ()
    is_primary: bool = False


@dataclass(frozen=True)
class Page:
    """Strings as they are: nothing is escaped yet. `measure` is what the cards' numbers are; the protocol holds the provenance; links are (words, file beside
    the page)."""

    title: str
    facts: Sequence[str]
    measure: str
    cards: Sequence[Card]
    sections: Sequence[tuple[str, Sequence[Block]]]
    protocol: Mapping[str, Any]
    attribution: Sequence[str]
    links: Sequence[tuple[str, str]] = ()


def write(folder: Path, name: str, page: Page, pictures: Mapping[str, Path]) -> None:
    """<name>.html and <name>.md, which links to the pictures: title -> PNG somewhere below `folder`.

    They name no machine and no folder, for pages are passed on.
    """
    protocol = dict(page.protocol)
    provenance = {key: value for key, value in protocol.pop("provenance", {}).items() if key not in OF_THE_MACHINE}
    made = [f"commit {str(protocol.get('commit') or 'unknown')[:12]}", f"reported {str(provenance.get('reported', '?'))[:10]}"]
    page = replace(page, facts=[*page.facts, *made], sections=list(with_something(page.sections, pictures)))
    warning = MINIATURE if protocol.get("data") == "mini" else ""
    stamps = {"Protocol": list(flat(protocol)), "Provenance": list(flat(provenance))}
    embedded = {title: base64.b64encode(path.read_bytes()).decode() for title, path in pictures.items()}
    environment = Environment(loader=PackageLoader("cxr.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("page.html").render(page=page, warning=warning, stamps=stamps, pictures=embedded)
    (folder / f"{name}.html").write_text(html, encoding="utf-8")
    links = {title: path.relative_to(folder).as_posix() for title, path in pictures.items()}
    (folder / f"{name}.md").write_text("\n".join(_markdown(page, warning, stamps, links)) + "\n", encoding="utf-8")


def with_something(sections: Sequence[tuple[str, Sequence[Block]]], pictures: Mapping[str, Path]) -> Iterator[tuple[str, list[Block]]]:
    """Without tables of no row, blocks whose picture was not drawn and that have nothing else to show, and sections of such alone."""
    for title, blocks in sections:
        full = [replace(block, tables=[table for table in block.tables if table.rows]) for block in blocks]
        if shown := [block for block in full if block.tables or (block.picture in pictures if block.picture else block.paragraphs)]:
            yield title, shown


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted key, words).

    >>> list(flat({"labels": {"release": "v2020"}, "findings": ["Mass", "Edema"], "commit": None}))
    [('labels.release', 'v2020'), ('findings', 'Mass, Edema'), ('commit', 'none')]
    """
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        yield key, ", ".join(map(str, value)) or "none"
    elif key:
        yield key, "none" if value is None or value == {} else str(value)


def _in_words(cell: Cell) -> str:
    """
    >>> _in_words(1234), _in_words(0.5), _in_words(None), _in_words({"value": 0.5, "lo": 0.4, "hi": 0.6})
    ('1,234', '0.500', '–', '0.500 [0.400, 0.600]')
    """
    if isinstance(cell, Mapping):
        return number(cell)
    return NOTHING if cell is None else cell if isinstance(cell, str) else f"{cell:,}" if isinstance(cell, int) else f"{cell:.3f}"


# --- markdown ---------------------------------------------------------------------------------------------------------------------------------------


def _markdown(page: Page, warning: str, stamps: Mapping[str, list[tuple[str, str]]], links: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {plain(page.title)}", "", plain(" · ".join(page.facts)), "", *([f"**{plain(warning)}**", ""] if warning else []))
    yield from (line for words, file in page.links for line in (f"[{plain(words)}]({file})", ""))
    headline = [
        (card.name + " (primary endpoint)" * card.is_primary, card.kind, f"{card.number} {card.interval}".strip() or "undefined", ", ".join(card.lines))
        for card in page.cards
    ]
    measure = page.measure + " [95 % interval]" * any(card.interval for card in page.cards)
    yield from as_table(("Reference set", "What it is", measure, "Of what"), headline)
    for title, blocks in page.sections:
        yield from (f"## {plain(title)}", "") if title else ()
        yield from (line for block in blocks for line in in_markdown(block, links))
    for title, rows in stamps.items():
        yield from (f"## {title}", "", *as_table(("Key", "Value"), rows))
    yield from ("## Attribution", "", *(f"- {plain(line)}" for line in page.attribution))


def in_markdown(block: Block, links: Mapping[str, str]) -> Iterator[str]:
    """Lines; the picture where `links` has it."""
    yield from (f"### {plain(block.title)}", "") if block.title else ()
    yield from (f"**{plain(block.warning)}**", "") if block.warning else ()
    yield from (line for paragraph in block.paragraphs for line in (plain(paragraph), ""))
    yield from (f"![{block.picture}]({links[block.picture]})", "") if block.picture in links else ()
    for table in block.tables:
        yield from (f"**{plain(table.title)}**", "") if table.title else ()
        yield from as_table(table.columns, table.words)


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(map(plain, cells))} |"
    yield ""


def plain(text: str) -> str:
    """Text that markdown shows as it is: no cell, line, code, link or tag can begin in it.

    >>> plain("a|b `c` <d>")
    'a\\\\|b \\\\`c\\\\` &lt;d&gt;'
    """
    one_line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\|`*]|(?<=\])\(", r"\\\g<0>", one_line)
