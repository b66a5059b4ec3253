"""Every notebook runs from top to bottom on the miniature and says what the reports say; and run/reading.py, by which notebooks open runs."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient

from cxr.config import PROJECT
from cxr.report.predictions import read_predictions, write_predictions
from cxr.report.wording import number
from cxr.run import RunError
from cxr.run.reading import OpenRun, finished_runs, open_run

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
HOOKS = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
OUTPUT = re.compile(next(hook["entry"] for hook in HOOKS if hook["id"] == "outputs"))


@pytest.fixture(scope="module")
def outputs(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What several runs of the demo leave behind. The newest is a real one; of the others, another seed and another learning rate, the logits are noisier."""
    folder = tmp_path_factory.mktemp("outputs") / "demo"
    for age, (name, seed, rate, noise) in enumerate((("real", 0, 0.003, 0), ("seed", 1, 0.003, 1), ("rate", 0, 0.001, 3))):
        run = shutil.copytree(finished_run, folder / name, ignore=shutil.ignore_patterns("checkpoints", "wandb"))
        if noise:
            config, report = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "report/report.json").read_text())
            config["seed"], config["optim"]["lr"], report["protocol"]["seed"] = seed, rate, seed
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            (run / "report/report.json").write_text(json.dumps(report))
            predictions = read_predictions(run / "predictions.parquet")
            logits = predictions.table.filter(like="logit_")
            noisy = (logits + np.random.default_rng(noise).normal(scale=noise, size=logits.shape)).astype("float32")
            write_predictions(run / "predictions.parquet", predictions.table.assign(**noisy), predictions.metadata)
        os.utime(run / "config.yaml", (2e9 - age, 2e9 - age))
    return folder


@pytest.fixture(scope="module")
def opened(outputs: Path) -> OpenRun:
    return open_run(outputs / "real")


def executed(name: str, **replaced: Any) -> tuple[str, int]:
    """Everything the notebook shows, as one text, and how many pictures; with other paths in its first code cell, the one that users edit."""
    notebook = nbformat.read(PROJECT / f"notebooks/{name}.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for written, now in replaced.values():
        assert written in first.source
        first.source = first.source.replace(written, now)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert OUTPUT.search(nbformat.writes(notebook))  # the hook knows an output when it sees one
    assert not [output for output in shown if output.get("name") == "stderr"]
    texts = [output.get("data", {}).get("text/html") or output.get("text") or "" for output in shown]
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", " ".join(texts), flags=re.DOTALL)), sum(
        "image/png" in output.get("data", {}) for output in shown
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept_in_the_repository(path: Path) -> None:
    assert not OUTPUT.search(path.read_text())
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


def test_the_cohort(mini: Path, finished_run: Path) -> None:
    told, n_pictures = executed("01_cohort", data=("{PROJECT}/miniature", str(mini)), draws=("draws = 500", "draws = 100"))
    rows = [line.split(",") for line in (mini / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]]
    assert f"{len(rows):,} films of {len({row[3] for row in rows}):,} patients" in told
    report = json.loads((finished_run / "report/report.json").read_text())
    test = report["prevalences"]["nih_test"]["text_mined"]
    for finding in ("Effusion", "Hernia"):
        train, val, of_test = re.search(rf" {finding} ([\d.]+) ([\d.]+) ([\d.]+) ", told).groups()  # type: ignore[union-attr]
        assert (float(of_test), float(train) > 0, float(val) > 0) == (pytest.approx(100 * test[finding], abs=0.05), True, True)
    assert n_pictures == 4


def test_one_run(outputs: Path) -> None:
    told, n_pictures = executed("02_read_a_run", outputs=('PROJECT / "outputs/demo"', repr(str(outputs))))
    part = json.loads((outputs / "real/report/report.json").read_text())["reference_sets"]["all_findings_test"]
    for area in (part["macro"]["auroc"], part["findings"]["Effusion"]["auroc"], part["findings"]["Hernia"]["auprc"]):
        assert number(area) in told
    points = part["findings"]["Effusion"]["operating_points"]
    assert points["source"] is None or number(points["rules"][points["shown"]]["sensitivity"]) in told
    assert "false alarm" in told
    assert n_pictures == 6


def test_several_runs(outputs: Path) -> None:
    told, n_pictures = executed("03_compare_runs", outputs=('PROJECT / "outputs/demo"', repr(str(outputs))), draws=("draws = 500", "draws = 100"))
    assert "optim.lr 0.001 0.003" in told
    report = json.loads((outputs / "real/report/report.json").read_text())
    for name in ("nih_test", "all_findings_test"):
        assert f", {report['reference_sets'][name]['macro']['auroc']['value']:.3f} " in told  # by seed, the real run the last
    assert n_pictures == 3


# --- run/reading.py ---------------------------------------------------------------------------------------------------------------------------------


def test_finished_runs_are_found_newest_first_in_multiruns_too(outputs: Path, tmp_path: Path) -> None:
    assert [run.name for run in finished_runs(outputs)] == ["real", "seed", "rate"]
    shutil.copytree(outputs / "rate", tmp_path / "sweep/0")
    shutil.copytree(outputs / "real", tmp_path / "single")
    (tmp_path / "unfinished").mkdir()
    assert finished_runs(tmp_path) == [tmp_path / "single", tmp_path / "sweep/0"]
    with pytest.raises(RunError, match=r"no finished run in .*unfinished: make one"):
        finished_runs(tmp_path / "unfinished")


def test_an_opened_run_scores_what_its_report_scored(opened: OpenRun) -> None:
    from sklearn.metrics import roc_auc_score

    for name, finding in (("nih_test", "Mass"), ("four_findings_test", "Nodule or mass")):
        films = opened.references[name].films.set_index("image_id").loc[opened.scores[name].index, finding]
        reported = opened.report["reference_sets"][name]["findings"][finding]["auroc"]["value"]
        assert roc_auc_score(films, opened.scores[name][finding]) == pytest.approx(reported, abs=1e-9)
    assert opened.metrics["val/auroc_macro"].max() == pytest.approx(opened.report["protocol"]["selection"]["value"], abs=1e-6)


def test_a_look_is_counted_and_none_is_taken_at_a_run_whose_report_says_something_else(outputs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(outputs / "real", tmp_path / "run")
    looks = (run / "looks.jsonl").read_text()
    open_run(run)
    assert len((run / "looks.jsonl").read_text().splitlines()) == len(looks.splitlines()) + 1
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["mapping"]["method"] = "max_raw"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    looks = (run / "looks.jsonl").read_text()
    with pytest.raises(RunError, match=r"another mapping.*make it again: python scripts/evaluate.py"):
        open_run(run)
    assert (run / "looks.jsonl").read_text() == looks
