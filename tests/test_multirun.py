"""A grid by one command: every job a run of its own, in one W&B group, and all of them beside each other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import call
from test_tracking import records, updates

SMALL = (
    *("data.image_size=32", "data.batch_size=160", "data.num_workers=0", "data.expert_labels=null", "trainer.max_epochs=2", "optim.lr=3e-3"),
    *("report.draws=100", "report.reader_draws=100", "optim.warmup_steps=5"),
)


@pytest.fixture(scope="module")
def grid(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two seeds and two losses."""
    folder, stores = tmp_path_factory.mktemp("multirun") / "2026-01-31_12-00-00.000000", mini.parent / "stores"
    done = call("train.py", "-m", f"data.root={mini}", f"data.store_dir={stores}", f"hydra.sweep.dir={folder}", "seed=0,1", "loss=bce,focal", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder


def compare(into: Path, *runs: Path) -> dict[str, Any]:
    """The candidates."""
    done = call("scripts/compare.py", f"runs=[{','.join(map(str, runs))}]", f"hydra.run.dir={into}", "report.draws=100", WANDB_MODE="disabled")
    assert done.returncode == 0, done.stderr
    candidates: dict[str, Any] = json.loads((into / "compare.json").read_text())["candidates"]
    return candidates


def test_two_seeds_and_two_losses_are_four_runs_of_one_group_and_two_candidates(grid: Path, tmp_path: Path) -> None:
    folders = sorted(path.parent.parent for path in grid.glob("*/report/report.json"))
    assert [folder.name for folder in folders] == ["0", "1", "2", "3"]
    ids, jobs = set(), []
    for folder in folders:
        found = records(folder)
        run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (run.run_group, run.display_name) == (f"train {grid.name}", f"{grid.name}/{folder.name}")
        ids.add(run.run_id)
        jobs.append((config["seed"], config["loss"]["name"]))
        report = json.loads((folder / "report/report.json").read_text())
        assert updates(found, "summary")["test/nih_test/auroc_macro"] == report["reference_sets"]["nih_test"]["macro"]["auroc"]["value"]
        assert [record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit"] == [0]
    assert len(ids) == 4
    assert sorted(jobs) == [(0, "bce"), (0, "focal"), (1, "bce"), (1, "focal")]

    candidates = compare(tmp_path / "comparison", *folders)
    assert {name: of["seeds"] for name, of in candidates.items()} == {"loss.name=bce": [0, 1], "loss.gamma=2.0, loss.name=focal": [0, 1]}


def test_an_ensemble_is_a_run_like_any_other(grid: Path, tmp_path: Path) -> None:
    """Of a run and its copy it is that run again, but for the rounding of a mean."""
    members = [shutil.copytree(grid / "0", tmp_path / name, ignore=shutil.ignore_patterns("checkpoints", "wandb")) for name in ("one", "copy")]
    folder = tmp_path / "ensemble"
    done = call("scripts/ensemble.py", f"runs=[{','.join(map(str, members))}]", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    report, of_one = (json.loads((run / "report/report.json").read_text()) for run in (folder, members[0]))
    assert report["protocol"]["members"] == [f"{run.parent.name}/{run.name}" for run in members]
    n_checked = 0
    for name, part in of_one["reference_sets"].items():
        for finding, row in (part["findings"] or {}).items():
            if row["auroc"]:
                assert report["reference_sets"][name]["findings"][finding]["auroc"]["value"] == pytest.approx(row["auroc"]["value"], abs=2e-3)
                n_checked += 1
    assert n_checked > 20
    assert len(compare(tmp_path / "comparison", members[0], folder)) == 2
    assert call("scripts/evaluate.py", f"run={folder}", f"hydra.run.dir={tmp_path / 'evaluate'}").returncode == 0
