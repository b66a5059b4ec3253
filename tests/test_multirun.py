"""A grid by one command: every job a run of its own, in one W&B group, and all of them beside each other."""

import json
from pathlib import Path

from commands import call
from test_tracking import records, updates

SMALL = (
    *("data.image_size=32", "data.batch_size=160", "data.num_workers=0", "data.expert_labels=null", "trainer.max_epochs=2", "optim.lr=3e-3"),
    *("report.draws=100", "report.reader_draws=100", "optim.warmup_steps=5"),
)


def test_two_seeds_and_two_losses_are_four_runs_of_one_group_and_two_candidates(mini: Path, tmp_path: Path) -> None:
    grid, stores = tmp_path / "2026-01-31_12-00-00.000000", mini.parent / "stores"
    done = call("train.py", "-m", f"data.root={mini}", f"data.store_dir={stores}", f"hydra.sweep.dir={grid}", "seed=0,1", "loss=bce,focal", *SMALL)
    assert done.returncode == 0, done.stderr
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

    into = tmp_path / "comparison"
    done = call("scripts/compare.py", f"runs=[{','.join(map(str, folders))}]", f"hydra.run.dir={into}", "report.draws=100", WANDB_MODE="disabled")
    assert done.returncode == 0, done.stderr
    candidates = json.loads((into / "compare.json").read_text())["candidates"]
    assert {name: of["seeds"] for name, of in candidates.items()} == {"loss.name=bce": [0, 1], "loss.gamma=2.0, loss.name=focal": [0, 1]}
