"""What a page is made of: blocks of words, one picture and tables; and how they are written as HTML that needs no other file and as markdown."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Table:
    """A table in words; `counts` are the columns that are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    counts: Sequence[int] = ()


@dataclass(frozen=True)
class Block:
    """A picture and tables under one heading with what a reader must know to read them; a folded one opens on demand."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    picture: str = ""
    alt: str = ""
    warning: str = ""
    folded: bool = False


def html_page(template: str, told: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """A page that needs no other file: every string escaped, every picture embedded."""
    environment = Environment(loader=PackageLoader("cxr.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    embedded = {title: base64.b64encode(path.read_bytes()).decode() for title, path in pictures.items()}
    return environment.get_template(template).render(told, pictures=embedded)


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


# --- markdown ---------------------------------------------------------------------------------------------------------------------------------------


def in_markdown(block: Block, links: Mapping[str, str]) -> Iterator[str]:
    """Lines of a block; `links` has the file of every picture that was drawn."""
    yield from (f"### {plain(block.title)}", "") if block.title else ()
    yield from (f"**{plain(block.warning)}**", "") if block.warning else ()
    yield from (line for paragraph in block.paragraphs for line in (plain(paragraph), ""))
    yield from picture_link(block.picture, links)
    for table in block.tables:
        yield from (f"**{plain(table.title)}**", "") if table.title else ()
        yield from as_table(table.columns, table.rows)


def picture_link(title: str, links: Mapping[str, str]) -> list[str]:
    return [f"![{title}]({links[title]})", ""] if title in links else []


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
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
