"""Mirrors report/sweep_page.py: what the trials were is in the table, the picture and the page."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from cxr.report import sweep_page


def trial(number: int, state: str, value: float | None, rate: str = "0.001", loss: str = "bce", reason: str = "") -> dict[str, Any]:
    return {"number": number, "state": state, "value": value, "epochs": 3, "drawn": {"optim.lr": rate, "loss": loss}, "reason": reason}


@pytest.fixture
def sweep() -> dict[str, Any]:
    trials = [
        trial(0, "trained", 0.61),
        trial(1, "pruned", 0.52, "1e-05", "focal"),
        trial(2, "lost", None),
        trial(3, "trained", 0.68, "0.01", "focal"),
        trial(4, "failed", None, reason="the <GPU> is too small, and so on"),
        trial(5, "trained", 0.66, "0.02"),
    ]
    return {
        "study": "s",
        "n": {"trained": 3, "pruned": 1, "failed": 1, "lost": 1, "running": 0},
        "best": trials[3],
        "trials": trials,
        "is_log": {"optim.lr": True, "loss": False},
        "protocol": {"data": "mini", "commit": None, "provenance": {"reported": "2026-11-25"}},
        "attribution": ["nobody"],
    }


def test_every_trial_is_a_line_with_its_parameters_and_folder(tmp_path: Path, sweep: dict[str, Any]) -> None:
    sweep_page.write(tmp_path, sweep)
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["state"], row["value"], row["optim.lr"], row["loss"], row["folder"]) for row in rows] == [
        (str(told["number"]), told["state"], str(told["value"] or ""), told["drawn"]["optim.lr"], told["drawn"]["loss"], str(told["number"]))
        for told in sweep["trials"]
    ]
    assert rows[4]["reason"] == "the <GPU> is too small, and so on"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.html", "sweep.md", "sweep.png", "trials.csv"]
    assert len(np.unique(imread(tmp_path / "sweep.png")[::7, ::7, :3] @ [1.0, 256.0, 65536.0])) > 10


def test_the_page_ranks_the_trials_and_tells_why_others_failed(tmp_path: Path, sweep: dict[str, Any]) -> None:
    sweep_page.write(tmp_path, sweep)
    lines = [line for line in (tmp_path / "sweep.md").read_text().splitlines() if line.startswith(("| 0", "| 1", "| 2", "| 3", "| 4", "| 5"))]
    assert [line.split("|")[1].strip() for line in lines] == ["3", "5", "0", "1", "2", "4"]
    assert "pruned" in lines[3]
    html = (tmp_path / "sweep.html").read_text()
    assert "the &lt;GPU&gt; is too small" in html
    assert "some of its lead is luck" in html


def test_the_line_of_the_best_so_far_never_falls_and_pruned_trials_do_not_raise_it(sweep: dict[str, Any]) -> None:
    scored = [told for told in sweep["trials"] if told["value"] is not None]
    scored[1]["value"] = 0.9  # pruned, for whatever reason
    history = sweep_page.draw(scored, sweep["best"], sweep["is_log"]).axes[0]
    (line,) = (line for line in history.lines if line.get_drawstyle() == "steps-post")
    assert line.get_xydata().tolist() == [[0, 0.61], [3, 0.68], [5, 0.68], [5, 0.68]]


def test_a_study_of_failures_alone_has_a_page_and_no_picture(tmp_path: Path, sweep: dict[str, Any]) -> None:
    failed = [told for told in sweep["trials"] if told["value"] is None]
    sweep_page.write(tmp_path, sweep | {"trials": failed, "best": None})
    assert not (tmp_path / "sweep.png").exists()
    assert "and so on" in (tmp_path / "sweep.md").read_text()
