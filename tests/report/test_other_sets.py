"""Mirrors report/other_sets.py: a report names exactly those whose data it used, and says which weights have seen the test films."""

from pathlib import Path
from typing import Any

import pytest

from cxr.cohort.pretraining import saw_test_films
from cxr.report import render
from cxr.report.other_sets import ABOUT, ATTRIBUTION, KIND

OWED = {
    "chexpert": ("Jeremy Irvin", "Stanford University Dataset Research Use Agreement"),
    "mimic": ("MIMIC-CXR-JPG", "PhysioNet Credentialed Health Data License", "credentialed", "10.13026/8360-t248", "Goldberger"),
    "rsna": ("George Shih", "e180041", "Society of Thoracic Radiology"),
    "tbportals": ("TB Portals", "data use agreement", "Rosenthal", "did not participate in the design"),
}


@pytest.mark.parametrize("used", OWED)
def test_a_set_that_was_used_is_credited_and_no_other(used: str) -> None:
    usual, told = " ".join(render.attribution("cxr14", True)), " ".join(render.attribution("cxr14", True, [used]))
    assert told.startswith(usual)
    for name, words in OWED.items():
        for word in words:
            assert (word in told) == (name == used or word in usual), word


def test_a_set_that_was_trained_and_tested_on_is_credited_once() -> None:
    assert render.attribution("cxr14", False, ["chexpert", "mimic", "chexpert"]) == [
        *render.attribution("cxr14", False),
        *ATTRIBUTION["chexpert"],
        *ATTRIBUTION["mimic"],
    ]


def test_every_set_is_told_in_words() -> None:
    assert set(KIND) == set(ABOUT)
    assert all(ABOUT.values())


def test_a_report_of_weights_that_saw_the_test_films_says_so_at_its_head(report: dict[str, Any], tmp_path: Path) -> None:
    report["protocol"]["pretraining"] = {"saw_nih_test": None}
    render.write_pages(tmp_path, report, {})
    assert "These weights have seen NIH test films" not in (tmp_path / "report.md").read_text()
    report["protocol"]["pretraining"]["saw_nih_test"] = saw_test_films("/weights/rad-dino.safetensors", "vit_base_patch14_dinov2")
    render.write_pages(tmp_path, report, {})
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "These weights have seen NIH test films: training began with RAD-DINO, which was trained on all 25,596 of the official test list" in text
