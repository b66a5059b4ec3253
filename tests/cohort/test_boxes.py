"""Mirrors cohort/boxes.py: every box against the csv module, the published file's counts, and files that were spoiled."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.cohort.boxes import BOX_FILE, in_first_half, load_boxes
from cxr.cohort.catalogue import Catalogue, load_catalogue
from cxr.cohort.findings import LabelError


@pytest.fixture(scope="module")
def catalogue(mini: Path) -> Catalogue:
    return load_catalogue(mini)


def test_every_box_is_what_the_file_says(mini: Path, catalogue: Catalogue) -> None:
    boxes = load_boxes(mini / BOX_FILE, catalogue)
    with (mini / BOX_FILE).open() as file:
        rows = list(csv.reader(file))[1:]
    assert len(boxes) == len(rows) == 120
    for box, (image_id, finding, *numbers) in zip(boxes.itertuples(), rows, strict=True):
        x, y, width, height = map(float, numbers)
        assert (box.image_id, box.finding) == (image_id, finding.replace("Infiltrate", "Infiltration"))
        assert box.patient_id == int(image_id[:8])
        assert (box.x, box.y, box.right, box.below) == (x, y, x + width, y + height)


def test_the_published_file_has_984_boxes_of_8_findings_on_880_films(real: Path) -> None:
    root = real / "data/cxr14_256"
    boxes = load_boxes(root / BOX_FILE, load_catalogue(root))
    assert (len(boxes), boxes.image_id.nunique(), boxes.finding.nunique()) == (984, 880, 8)
    assert boxes.finding.value_counts()[["Atelectasis", "Infiltration", "Nodule"]].tolist() == [180, 123, 79]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Infiltrate", "Infiltrates", r"row \d+: 'Infiltrates' where one of the 14 findings, or Infiltrate, is expected"),
        (",Mass,", ",Mass,-", r"row \d+: '-[\d.]+' where a number of pixels \(x of the box\)"),
        (",Mass,", ",Mass,nan", r"row \d+: 'nan[\d.]+' where a number of pixels"),
        (",Mass,", ",Mass,9", r"row \d+: '.*' where x, y, width and height of a box within 1024 pixels is expected"),
        ("Bbox [x", "Bbox [left", r"column 'Bbox \[x' is missing"),
        ("\n0", "\n9", r"row 2: '9.*png' where a labelled film of the official test list"),
        (",Mass,", ",Mass,1,", r"row \d+: 7 cells under a header of 6 columns"),
    ],
)
def test_a_broken_file_is_refused_with_row_and_value(mini: Path, catalogue: Catalogue, tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (mini / BOX_FILE).read_text()
    assert old in text
    (tmp_path / BOX_FILE).write_text(text.replace(old, new, 1))
    with pytest.raises(LabelError, match=f"{BOX_FILE}.*{said}"):
        load_boxes(tmp_path / BOX_FILE, catalogue)


def test_a_film_and_finding_that_stands_twice_is_refused(mini: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    shutil.copy(mini / BOX_FILE, tmp_path)
    lines = (mini / BOX_FILE).read_text().splitlines()
    (tmp_path / BOX_FILE).write_text("\n".join([*lines, lines[3]]))
    with pytest.raises(LabelError, match=rf"row {len(lines) + 1}: .*a film and finding that was not named before"):
        load_boxes(tmp_path / BOX_FILE, catalogue)


def test_a_patients_half_depends_on_nobody_else_and_halves_are_halves() -> None:
    patients = pd.Series(np.repeat(np.arange(2000), 2))
    first = in_first_half(patients, 0)
    assert (first[::2] == first[1::2]).all()
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(in_first_half(patients[100:200], 0), first[100:200])
    assert 0.4 < (in_first_half(patients, 1) == first).mean() < 0.6
