"""Mirrors report/model_card.py: every number of the card is the report's."""

from typing import Any

import pytest

from cxr.cohort.findings import NIH_FINDINGS
from cxr.report.model_card import NO_REPORT, model_card
from cxr.report.wording import number, spell
from cxr.run.trained import NO_REPORT as REASON
from cxr.run.trained import fixed_on_validation

SPEED = {"onnx": 210.0, "torch": 100.0, "n_threads": 2, "batch_size": 8}


@pytest.fixture
def facts(report: dict[str, Any]) -> dict[str, Any]:
    known = {"findings": list(NIH_FINDINGS), "image_size": 224, "store_size": 256, "rule": "grey", "package_version": "1", "checkpoint_sha256": "ab"}
    return known | {"onnx": {"max_difference": 2e-7, "tolerance": 1e-5}} | fixed_on_validation(report, list(NIH_FINDINGS))


def test_the_card_has_every_sets_numbers_and_whom_to_credit(report: dict[str, Any], facts: dict[str, Any]) -> None:
    card = model_card(facts, report, n_weights=7_000_000, speed=SPEED)
    for name, part in report["reference_sets"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {spell(name)} |"))
        assert number(part["macro"]["auroc"]) in row if part["macro"]["auroc"] else "undefined" in row
        if name not in ("nih_val", "four_findings_validation"):
            assert all(number(of["auroc"]) in card for of in part["findings"].values() if of["auroc"])
    for line in report["attribution"]:
        assert line in card
    assert "2.0e-07 at most (allowed: 1e-05)" in card
    assert "node17" not in card
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert tables
    assert all(len({line.count(" | ") for line in table if "---" not in line}) == 1 for table in tables)  # no ragged row


def test_the_thresholds_are_those_that_were_frozen(report: dict[str, Any], facts: dict[str, Any]) -> None:
    card = model_card(facts, report, n_weights=1, speed=SPEED).partition("## Thresholds and calibration that it carries")[2].partition("##")[0]
    fixed = report["protocol"]["evaluation"]
    for finding in NIH_FINDINGS:
        row = next(line for line in card.splitlines() if line.startswith(f"| {spell(finding)} |"))
        point, refit = fixed["operating_points"]["nih_test"][finding], fixed["recalibration"]["nih_test"][finding]
        if point["source"]:
            assert f"{point['rules'][fixed['settings']['rule']]['threshold']:.3f}" in row
            assert f"{refit['slope']:.3f} | {refit['intercept']:.3f}" in row
        else:
            assert "| – | – |" in row


def test_weights_that_saw_test_films_are_told(report: dict[str, Any], facts: dict[str, Any]) -> None:
    report["protocol"]["pretraining"] = {"saw_nih_test": {"what": "densenet121-res224-all", "films": "all of NIH", "source": "its authors"}}
    assert "These weights have seen NIH test films: training began with densenet121-res224-all" in model_card(facts, report, n_weights=1, speed=SPEED)


def test_without_a_report_the_card_says_that_nothing_is_known(facts: dict[str, Any]) -> None:
    bare = facts | {"operating": {"points": {f: {"reason": REASON} for f in NIH_FINDINGS}}, "calibration": {f: {"reason": REASON} for f in NIH_FINDINGS}}
    card = model_card(bare, None, n_weights=1, speed=SPEED)
    assert NO_REPORT in card
    assert "Not a medical device" in card
