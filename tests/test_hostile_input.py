"""Input that nobody should have made: tables, folders and names that break a reader, and properties that hold for any input at all."""

import csv
import io
import math
import os
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr import resume, tracking
from cxr.cohort.catalogue import find_images, load_catalogue
from cxr.cohort.findings import NIH_FINDINGS, LabelError, parse_finding_lists, read_table
from cxr.report.predictions import PredictionsError, read_predictions, write_predictions

# what a file system lets a folder be called, without ${...}, which OmegaConf fills in
FOLDERS = st.text(st.characters(exclude_characters="\0/${", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda name: name not in (".", ".."))
CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


# --- tables and folders -----------------------------------------------------------------------------------------------------------------------------


def test_ten_million_rows_are_refused_before_they_become_a_table(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 10_000_000)
    with pytest.raises(LabelError, match="2,000,000 lines"):
        read_table(path)


def test_a_table_of_one_endless_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with path.open("wb") as file:
        file.truncate(2**33)  # takes no room on disk
    with pytest.raises(LabelError, match="more than 256 MB"):
        read_table(path)


@pytest.mark.parametrize("content", [b"Image Index,Finding Labels\n\0,\n", b"\xff\xfeI\0m\0", b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,a\n1,2\n", b"", b'a,b\n"1,2\n'])
def test_a_table_that_no_one_can_read_rightly_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(LabelError, match=r"labels\.csv"):
        read_table(tmp_path / "labels.csv")


def test_links_that_loop_pipes_and_folders_are_no_films(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "00000001_000.png").write_bytes(b"a film")
    (folder / "00000001_001.png").symlink_to(folder / "00000001_001.png")
    (folder / "00000001_002.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "00000001_003.png")
    (folder / "00000001_004.png").mkdir()
    (tmp_path / "images_001").symlink_to(tmp_path)  # a folder within itself
    found = find_images(tmp_path, pd.Series([f"00000001_00{i}.png" for i in range(5)]))
    assert found == {"00000001_000.png": folder / "00000001_000.png"}


def test_a_label_file_without_a_row_is_refused(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: cut off within its header."""
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,Or"
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(header)
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / name).write_text("00000001_000.png")
    with pytest.raises(LabelError, match=r"v2020\.csv: no row"):
        load_catalogue(tmp_path)


def test_predictions_whose_names_are_no_text_are_refused(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: arrow hands over what is not UTF-8, and fails when it is looked at."""
    path = tmp_path / "predictions.parquet"
    table = pd.DataFrame({"image_id": ["00000001_000.png"], "patient_id": [1], "split": ["val"], "logit_Mass": np.zeros(1, np.float32)})
    write_predictions(path, table, {})
    content = path.read_bytes()
    assert b"00000001_000.png" in content
    path.write_bytes(content.replace(b"00000001_000.png", b"00000001_\xb000.png"))
    with pytest.raises(PredictionsError, match=r"predictions\.parquet"):
        read_predictions(path)


# --- for any input at all ---------------------------------------------------------------------------------------------------------------------------


@given(header=st.lists(NAMES, min_size=1, max_size=4, unique=True), data=st.data())
@settings(deadline=None)
def test_a_table_is_read_as_it_was_written(header: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=5))
    rows = [row for row in rows if row != [""]]  # csv writes a row of one empty cell as an empty line
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(text.getvalue().encode())
        table = read_table(path)
    assert list(table.columns) == header
    assert table.to_numpy().tolist() == rows


@given(st.sets(st.sampled_from(NIH_FINDINGS)), st.randoms())
def test_a_list_of_findings_is_exactly_those_findings(chosen: set[str], random: object) -> None:
    order = sorted(chosen, key=lambda _: random.random())  # type: ignore[attr-defined]
    parsed = parse_finding_lists(pd.Series(["|".join(order) or "No Finding"]), Path("labels.csv"))
    assert {finding for finding in NIH_FINDINGS if parsed[finding].iloc[0] == 1} == chosen


@given(CELLS.filter(lambda cell: not set(cell.split("|")) <= {*NIH_FINDINGS}).filter(lambda cell: cell != "No Finding"))
def test_what_is_no_list_of_findings_is_an_error_and_never_a_negative(cell: str) -> None:
    with pytest.raises(LabelError):
        parse_finding_lists(pd.Series([cell]), Path("labels.csv"))


@given(FOLDERS)
def test_a_run_folder_of_any_name_is_gone_on_with(name: str) -> None:
    """What `resume=` makes of the command line, read by Hydra's own parser."""
    with mock.patch.object(resume, "read", return_value=({}, {"choices": {}})):
        words = resume.arguments([f"resume=/runs/{name}"])
    parsed = {override.key_or_group: override.value() for override in OverridesParser.create().parse_overrides(words)}
    assert parsed["resume"] == parsed["hydra.run.dir"] == f"/runs/{name}"


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["loss", "lr", "val/auroc"]), st.floats(-1e6, 1e6)), max_size=12), st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_curves_that_go_on_are_those_of_the_steps_before(logged: list[tuple[int, str, float]], first_step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.csv"
        curves = tracking._metrics_file(path, 0)
        for step, name, value in logged:
            curves.log_metrics({name: value}, step)
        kept = tracking._metrics_file(path, first_step).rows()
    expected = [(str(step), name, value) for step, name, value in logged if step < first_step]
    assert [(row["step"], name, float(row[name])) for row in kept for name in row if name not in ("step", "epoch") and row[name]] == expected


@given(st.lists(st.tuples(CELLS, st.integers(0, 2**31), st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2)), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_predictions_are_read_as_they_were_written_or_refused(rows: list[tuple[str, int, list[float]]]) -> None:
    table = pd.DataFrame({"image_id": [row[0] for row in rows], "patient_id": [row[1] for row in rows], "split": "val"})
    for i, finding in enumerate(NIH_FINDINGS[:2]):
        table[f"logit_{finding}"] = np.array([row[2][i] for row in rows], np.float32)
    sound = len(set(table.image_id)) == len(rows) and all(math.isfinite(value) for row in rows for value in row[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.parquet"
        write_predictions(path, table, {"protocol": {}})
        if sound:
            assert read_predictions(path).table.equals(table)
        else:
            with pytest.raises(ValueError, match=r"predictions\.parquet"):
                read_predictions(path)
