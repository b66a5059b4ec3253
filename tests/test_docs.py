"""The documentation: it builds without a broken link, shows the code as it is, and names no command, option or key that is not there."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from test_boundaries import FILES, imports, place

from cxr import config
from cxr.config import PROJECT, VARIANTS

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Links(HTMLParser):
    """What a page points at, and what can be pointed at in it."""

    def __init__(self, text: str):
        super().__init__()
        self.to, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given["id"]} if given.get("id") else set()
        self.to += [given[name] for name in ("href", "src") if given.get(name)]


def test_every_link_of_the_built_pages_leads_somewhere_and_none_loads_from_elsewhere(site: Path) -> None:
    pages = {path.resolve(): Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 20
    n_links = 0
    for path, page in pages.items():
        for link in page.to:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
            n_links += 1
        assert not re.search(r"""<(script|img)[^>]+src=["']https?:|<link[^>]+rel=["']?stylesheet["']?[^>]+href=["']https?:""", path.read_text()), path.name
    assert n_links > 500


def test_the_picture_shows_the_imports_and_nothing_else(site: Path) -> None:
    """Its arrows, and what follows from them, are all imports between rooms; the oracle is what the boundaries' test reads."""
    text = (site / "architecture.svg").read_text()
    drawn = set(re.findall(r'data-from="(\w+)" data-to="(\w+)"', text))
    real = {(place(path), name.split(".")[1]) for path in FILES for name in imports(path) if name.startswith("cxr.")}
    names = {place(path) for path in FILES}
    real = {(here, there) for here, there in real if here != there and there in names and here in names}
    assert drawn <= real
    implied = set(drawn)
    while True:
        more = {(a, d) for a, b in implied for c, d in implied if b == c} - implied
        if not more:
            break
        implied |= more
    assert real <= implied
    for path in (PROJECT / "src/cxr").iterdir():
        if (path / "__init__.py").exists():
            assert f">{path.name}<" in text


def test_every_key_is_on_the_reference_page_and_every_room_has_one(site: Path) -> None:
    page = (site / "reference/keys.html").read_text()
    for group in fields(config.Config):
        for kind in VARIANTS.get(group.name, ()):
            assert all(f"{group.name}.{item.name}" in page for item in fields(kind)), kind
    assert "data.expert_validation_patients" in page
    assert "sweep.startup_trials" in page
    assert ">auroc<" in re.sub(r"\s", "", (site / "reference/stats.html").read_text())


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a code block that starts one of our entry points."""
    found = []
    for path in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", path.read_text(), re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(path.name, line.strip()) for line in lines if re.search(r"(^|/|\s)python3? (train|scripts/\w+)\.py|^sbatch ", line.strip())]
    return found


def test_commands_of_the_pages_are_there_and_know_their_keys() -> None:
    """By the schema and the folders of options; what a placeholder stands for cannot be checked."""
    found = commands()
    assert len(found) > 30
    for page, line in found:
        line = re.split(r"\s+[#&|>;]|\s\s+\S*[^=\s]+\s", line)[0]
        script = re.search(r"(?:python3? |sbatch (?:--\S+ )*)(\S+)", line)[1]
        path = PROJECT / script
        assert path.exists(), f"{page}: {line}"
        if path.suffix != ".py":
            continue
        schema = re.search(r'@entry\("\w+", (\w+)\)', path.read_text())
        if not schema:
            continue  # the benchmark, which is no Hydra application
        known = {name for name, _, _ in config.explained(getattr(config, schema[1]))} | {item.name for item in fields(getattr(config, schema[1]))}
        for key, value in re.findall(r"\s\+?([\w.]+)=(\S*)", line.partition(script)[2]):
            assert key in known or key in ("experiment", "sweep") or key.startswith(("hydra.", "data.sources.")), f"{page}: {key} of {line}"
            options = PROJECT / "configs" / key
            if options.is_dir() and re.fullmatch(r"[\w,]+", value):
                assert all((options / f"{name}.yaml").exists() for name in value.split(",")), f"{page}: {key}={value}"


def test_the_tutorial_is_literal() -> None:
    """No placeholder in the blocks that a reader copies: those marked as sh."""
    blocks = re.findall(r"```sh\n(.*?)```", (PROJECT / "docs/tutorial.md").read_text(), re.S)
    assert len(blocks) >= 6
    for line in "".join(blocks).splitlines():
        assert not re.search(r"<|\.\.\.|…|/path", line), line


def test_the_hook_finds_the_same_rooms_as_the_folder() -> None:
    spec = importlib.util.spec_from_file_location("pages", PROJECT / "docs/pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    navigation = (PROJECT / "mkdocs.yml").read_text()
    for room in pages.ROOMS:
        assert f"reference/{room}.md" in navigation, f"{room} has no page in mkdocs.yml"
