"""What would leave the machine is what docs/privacy.md says, key by key: read from the records and files of an offline run.

`pytest tests/test_privacy.py -s` prints the list.
"""

import json
import platform
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from test_tracking import records

from cxr.cohort.experts import FILES as EXPERT_FILES
from cxr.cohort.findings import ALL_FINDINGS, FOUR_FINDINGS, NIH_FINDINGS
from cxr.config import PROJECT
from cxr.report.charts import CALIBRATION_AXES, PRECISION_RECALL_AXES
from cxr.report.drawing import ROC_AXES
from cxr.report.wording import spell

FINDINGS = {*NIH_FINDINGS, *FOUR_FINDINGS, *ALL_FINDINGS}
SETS = {"nih_val", "nih_test", *EXPERT_FILES}
FILM = re.compile(r"\d{8}_\d{3}")
AXES = {*ROC_AXES, *PRECISION_RECALL_AXES, *CALIBRATION_AXES}
OF_WANDB = r"run-\w+-[\w-]+|wandb-[\w.-]+|requirements\.txt|config\.yaml|wandb/lineseries/v0|\$\{runSets\}|_defaultColorIndex"
CHART_TABLE = rf"(media/table/)?Custom Chart Tables/charts/({'|'.join(SETS)})/(roc|precision_recall|reliability)_table"
MEDIA = r"(media/|test/)[\w/.-]+"
# of W&B's own transport, which no server is told: numbers of records, and where a file of this machine is fetched from
TRANSPORT = ("num", "Info/", "control/", "step", "artifact/manifest/contents/localPath")

Found = dict[tuple[str, str], set[str]]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value below, lists without their positions."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}/{key}" if path else key)
    elif isinstance(value, list):
        for below in value:
            yield from leaves(below, path)
    else:
        yield path, value


def kind_of(text: str) -> str:
    """What sort of text this is; "unknown" is none that may be sent."""
    if FILM.search(text):
        return "film"
    if text in FINDINGS:
        return "finding"
    if re.fullmatch(r"\d{10}", text):
        return "reader"
    if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", text):
        return "time"
    if re.fullmatch(r"(CPython )?\d+(\.\d+)+\S*|linux\S*|[\w.-]+==\S+", text):
        return "version"
    if re.fullmatch(r"[0-9a-f]{8,64}(-dirty)?|[0-9a-z]{100,}|[\w+/]{22}==", text):
        return "hash"
    if re.fullmatch(rf"(wandb-client-artifact://\w+(:latest)?/)?({MEDIA}|{CHART_TABLE}[\w.-]*)|{OF_WANDB}", text):
        return "W&B's name"
    if re.fullmatch(r"val/(auroc_macro|loss)", text):
        return "metric"
    if text in AXES or re.fullmatch(rf"({'|'.join(map(spell, SETS))}): (ROC|precision-recall|reliability)", text):
        return "chart title"
    if re.fullmatch(r'"?[A-Za-z0-9][\w.-]{0,40}"?|', text):
        return "word"
    return "unknown"


def general(key: str) -> str:
    """A key with <finding>, <set> and <figure> in the place of their names."""
    parts = key.split("/")
    if parts[0] == "figures":
        parts[1] = "<figure>"
    for i, part in enumerate(parts):
        bare = re.sub(r"_(lo|hi)$", "", part)
        if part in SETS:
            parts[i] = "<set>"
        elif bare in FINDINGS and parts[0] in ("val", "test", "best"):
            parts[i] = part.replace(bare, "<finding>")
    return "/".join(parts)


def what_would_be_sent(folder: Path) -> Found:
    """(record, key) -> the kinds of text found there, of everything in the W&B folder of a run."""
    found: Found = {}

    def add(record: str, key: str, value: Any) -> None:
        kinds = found.setdefault((record, general(key)), set())
        if isinstance(value, str) and not re.fullmatch(r"-?\d{1,9}", value):
            kinds.add(kind_of(value))

    for record in records(folder):
        kind = record.WhichOneof("record_type")
        part = getattr(record, kind)
        items = [*part.config.update] if kind == "run" else [*getattr(part, "update", []), *getattr(part, "item", [])]
        for item in items:
            for key, value in leaves(json.loads(item.value_json), "/".join(getattr(item, "nested_key", [])) or item.key):
                add("config" if kind == "run" else kind, key, value)
        told = MessageToDict(record)
        for name in ("config", "update", "item"):
            told.get(kind, {}).pop(name, None)
        for key, value in leaves(told):
            if not key.startswith(TRANSPORT):
                add(kind, key.removeprefix(f"{kind}/") if kind in ("run", "header") else key, value)
    (place,) = folder.glob("wandb/offline-run-*")
    for file in (path for path in (place / "files").rglob("*") if path.is_file()):
        if file.name.endswith(".table.json"):
            name = re.sub(r"_\d+_\w+\.table\.json$", "", file.name)
            for _, value in leaves(json.loads(file.read_text())):
                add("table", name, value)
        elif file.suffix == ".png":
            add("picture", re.sub(r".*", "<figure>", file.name, count=1), None)
        elif file.suffix == ".html":
            add("page", file.name.split("_")[0], None)
        elif file.name == "requirements.txt":
            for line in file.read_text().split():
                add("file", file.name, line)
        else:
            add("file", str(file.relative_to(place)), "unknown: " + file.name)
    return found


def documented() -> list[tuple[str, str, set[str]]]:
    """(record, pattern, kinds of text) of each row of the table."""
    rows = re.findall(r"^\| ([\w, ]+) \| `([^`]+)` \|([^|]*)\|", (PROJECT / "docs/privacy.md").read_text(), re.MULTILINE)
    kinds = [({"word" if kind in ("path's end", "list name") else kind for kind in text.strip().split(", ")} - {""}) for _, _, text in rows]
    return [(record, pattern, kind) for (names, pattern, _), kind in zip(rows, kinds, strict=True) for record in names.split(", ")]


@pytest.fixture(scope="module")
def found(finished_run: Path) -> Found:
    return what_would_be_sent(finished_run)


def test_every_key_that_would_be_sent_is_documented_with_its_kinds_of_text(found: Found) -> None:
    rows = documented()
    assert len(rows) > 50
    print()
    for (record, key), kinds in sorted(found.items()):
        print(f"{record:10}{key:60}{', '.join(sorted(kinds))}")
        allowed = [may for name, pattern, may in rows if name == record and fnmatchcase(key, pattern)]
        assert allowed, f"{record} {key} is not in docs/privacy.md"
        assert kinds <= set.union(*allowed), f"{record} {key}: {kinds}"


def test_nothing_is_documented_that_is_not_sent(found: Found) -> None:
    for name, pattern, _ in (row for row in documented() if row[0] != "stats"):  # which come every 15 s
        assert any(record == name and fnmatchcase(key, pattern) for record, key in found), f"{name} {pattern} was not found in the run"


def test_no_film_and_no_folder_of_this_machine_is_named(finished_run: Path, mini: Path, found: Found) -> None:
    assert {key: kinds for key, kinds in found.items() if kinds & {"film", "unknown"}} == {}
    (place,) = finished_run.glob("wandb/offline-run-*")
    sent = b"".join(file.read_bytes() for file in [*place.glob("run-*.wandb"), *(place / "files").rglob("*")] if file.is_file())
    assert len(sent) > 1_000_000
    named = (film.stem for film in (mini / "images").iterdir())
    page = next((place / "files/media/html").glob("report_*.html")).read_text()
    assert f">{platform.node()}<" not in page
    for name in (*named, str(mini.parent), str(PROJECT)):
        assert name.encode() not in sent


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("00000001_000.png", "film"),
        ("see 00000001_000", "film"),
        ("/data/films", "unknown"),
        ("John Doe", "unknown"),
        ("Effusion", "finding"),
        ("adamw", "word"),
    ],
)
def test_the_kinds_are_told_apart(text: str, kind: str) -> None:
    assert kind_of(text) == kind
