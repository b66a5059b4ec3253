"""Mirrors cohort/experts.py. The oracle for the real files is the csv module."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from cxr.cohort.experts import FILES, ExpertError, load_expert_labels
from cxr.cohort.findings import LabelError


def test_the_real_labels_equal_a_plain_reading_of_the_files(real: Path) -> None:
    folder = real / "data" / "google_expert_labels"
    labels = load_expert_labels(folder)
    assert {name: len(table) for name, table in labels.items()} == {
        "four_findings_validation": 2_414,
        "four_findings_test": 1_962,
        "all_findings_test": 810,
    }
    for name, (file, image_column, findings, _) in FILES.items():
        with (folder / file).open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        for finding in findings:
            column = {"Pleural_Thickening": "Pleural Thickening"}.get(finding, finding) if name == "all_findings_test" else finding
            mine = labels[name].set_index("image_id")[finding]
            assert all(mine[row[image_column]] == {"YES": 1, "NO": 0}[row[column]] for row in rows)


def test_the_miniature_loads_like_the_real_files(mini: Path) -> None:
    labels = load_expert_labels(mini / "expert_labels")
    assert all(len(labels[name]) for name in FILES)
    assert set(labels["all_findings_test"].image_id) <= set(labels["four_findings_test"].image_id)


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "message"),
    [
        ("four_findings_test", r",YES,", ",MAYBE,", "'MAYBE' where YES or NO"),
        ("four_findings_test", r",test\b", ",val", "'val' where 'test'"),
        ("four_findings_validation", r"Nodule or mass", "Nodules", "column 'Nodule or mass' is missing"),
        ("all_findings_test", r"Patient ID", "Patient", "column 'Patient ID' is missing"),
        ("all_findings_test", r"\n(\d{8}_\d{3}\.png),(\d+)", r"\n\1,P\2", "where a patient number"),
        ("all_findings_test", r"(\n\d{8}_\d{3}\.png,[^\n]*)", r"\1\1", "not named before"),
    ],
)
def test_a_spoiled_file_is_an_error_that_names_file_and_value(mini: Path, tmp_path: Path, name: str, pattern: str, replacement: str, message: str) -> None:
    folder = shutil.copytree(mini / "expert_labels", tmp_path / "labels")
    path = folder / FILES[name][0]
    path.write_bytes(re.sub(pattern, replacement, path.read_bytes().decode(), count=1).encode())
    with pytest.raises(LabelError) as caught:
        load_expert_labels(folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_absent_files_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ExpertError) as caught:
        load_expert_labels(tmp_path)
    for told in ("validation_labels.csv", "all_findings_expert_labels/test_labels.csv", "https://", "data.expert_labels=null"):
        assert told in str(caught.value)
