"""What the documentation takes from the code when it is built, so that it cannot lag behind: reference pages, every key, and the picture of the rooms.

A hook of mkdocs (mkdocs.yml); `python docs/pages.py picture.svg` draws the picture alone.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

PROJECT = Path(__file__).parent.parent
SOURCE = PROJECT / "src" / "cxr"
# pages of the project's root, which are pages here too
FROM_ROOT = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
ROOMS = tuple(sorted(path.parent.name for path in SOURCE.glob("*/__init__.py") if path.parent.name not in ("benchmark", "trials", "run")))


# --- the hook -------------------------------------------------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = {FROM_ROOT[name]: (PROJECT / name).read_text().replace("](docs/", "](") for name in FROM_ROOT}
    pages |= {f"reference/{room}.md": reference(room) for room in ROOMS} | {"reference/keys.md": keys(), "architecture.svg": picture(rooms(), edges())}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    for name, page in FROM_ROOT.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


# --- pages ----------------------------------------------------------------------------------------------------------------------------------------------


def reference(room: str) -> str:
    """The page of a room: its modules that have public names, from their docstrings."""
    modules = [path.stem for path in sorted((SOURCE / room).glob("*.py")) if path.stem != "__init__" and any(public(path))]
    return f"# {room}\n\n" + "\n".join(f"::: cxr.{room}.{module}\n" for module in modules)


def public(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node.name


def keys() -> str:
    """Every key of every entry point, as --help tells them; those that train.py has too are told once."""
    from cxr import config

    lines = ["# Every key", "", "As `--help` tells them. A mistyped key is one line before anything slow starts.", ""]
    of_training = {name for name, _, _ in config.explained(config.Config)}
    for path in (PROJECT / "train.py", *sorted((PROJECT / "scripts").glob("*.py"))):
        tree = ast.parse(path.read_text())
        schema = next((ast.unparse(call.args[1]) for call in ast.walk(tree) if isinstance(call, ast.Call) and ast.unparse(call.func) == "entry"), None)
        if not schema:
            continue
        first, _, commands = (ast.get_docstring(tree) or "").partition("\n")
        lines += [f"## {path.relative_to(PROJECT)}", "", first, "", "```", commands.strip(), "```", ""]
        told = list(config.explained(getattr(config, schema)))
        if path.name != "train.py" and of_training <= {name for name, _, _ in told}:
            lines += ["Every key of train.py, and:", ""]
            told = [row for row in told if row[0] not in of_training]
        lines += ["| key | default | |", "|---|---|---|"]
        lines += [f"| `{name}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |" for name, default, meaning in told] + [""]
    return "\n".join(lines)


# --- the picture ----------------------------------------------------------------------------------------------------------------------------------------


def place(path: Path) -> str:
    inside = path.relative_to(SOURCE).parts
    return inside[0] if len(inside) > 1 else path.stem


def rooms() -> dict[str, int]:
    """Room, or file outside one -> its lines."""
    lines: dict[str, int] = {}
    for path in SOURCE.rglob("*.py"):
        if path != SOURCE / "__init__.py":
            lines[place(path)] = lines.get(place(path), 0) + len(path.read_text().splitlines())
    return lines


def edges() -> set[tuple[str, str]]:
    """(room, a room it imports from), wherever in a file it does so."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "cxr":
                modules = [f"cxr.{alias.name}" for alias in node.names]
            found |= {(place(path), module.split(".")[1]) for module in modules if module.startswith("cxr.")}
    return {(here, there) for here, there in found if here != there and here != "__init__"}


def floors(names: Mapping[str, int], imports: set[tuple[str, str]]) -> list[list[str]]:
    """Rooms from the ground up: each stands above all that it imports."""
    level: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in level:
            level[name] = max((1 + of(below) for here, below in imports if here == name), default=0)
        return level[name]

    for name in names:
        of(name)
    return [sorted(name for name in names if level[name] == k) for k in range(max(level.values()) + 1)]


def picture(names: Mapping[str, int], imports: set[tuple[str, str]]) -> str:
    """The rooms as SVG: floors, lines of code, and the imports that no other import implies."""
    width, height, gap, box = 1100, 54, 66, 108
    reach: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in reach:
            reach[name] = set().union(*({below} | reached(below) for here, below in imports if here == name), set())
        return reach[name]

    direct = {(here, below) for here, below in imports if not any(below in reached(via) for over, via in imports if over == here and via != below)}
    levels = floors(names, imports)[::-1]
    at: dict[str, tuple[float, int]] = {}
    # each room goes where its neighbours are, a few times over: fewer lines cross
    for _ in range(20):
        for k, floor in enumerate(levels):
            near = {name: [at[other][0] for pair in direct if name in pair for other in pair if other != name and other in at] for name in floor}
            floor.sort(key=lambda name, near=near: sum(near[name]) / len(near[name]) if near[name] else 0)  # type: ignore[misc]
            at |= {name: (width * (i + 0.5) / len(floor), 20 + k * (height + gap)) for i, name in enumerate(floor)}
    total = 20 + len(levels) * (height + gap) - gap + 20
    much_used = {name for name in names if sum(below == name for _, below in direct) > 4}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-family="DejaVu Sans, sans-serif">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 8 4 0 8z" fill="#6b6b6b"/></marker></defs>',
        f'<rect width="{width}" height="{total}" fill="white"/>',
    ]
    for here, below in sorted(direct):
        (x1, y1), (x2, y2) = at[here], at[below]
        y1, middle = y1 + height, (y1 + height + y2) / 2
        colour = "#d9d9d9" if below in much_used else "#6b6b6b"
        out.append(
            f'<path class="import" data-from="{here}" data-to="{below}" d="M{x1:.0f} {y1} C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2 - 1}" '
            f'fill="none" stroke="{colour}" stroke-width="1.4" marker-end="url(#a)"/>'
        )
    for name, (x, y) in at.items():
        is_room = (SOURCE / name).is_dir()
        out.append(f'<rect x="{x - box / 2:.0f}" y="{y}" width="{box}" height="{height}" rx="6" fill="{"#0072B2" if is_room else "#6b6b6b"}"/>')
        label = name if is_room else f"{name}.py"
        out.append(f'<text x="{x:.0f}" y="{y + 24}" text-anchor="middle" font-size="{13 if len(label) < 14 else 11}" fill="white">{escape(label)}</text>')
        out.append(f'<text x="{x:.0f}" y="{y + 42}" text-anchor="middle" font-size="10.5" fill="#dddddd">{names[name]:,} lines</text>')
    return "\n".join([*out, "</svg>"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(rooms(), edges()))
