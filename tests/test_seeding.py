"""Mirrors run/seeding.py: the real command, killed within the second seed and started again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import call

from cxr.config import PROJECT
from cxr.trials.processes import kill, look_at


@pytest.fixture(scope="module")
def command(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("seeds") / "parent"
    places = [f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}"]
    tiny = ["data.image_size=32", "data.batch_size=64", "trainer.max_epochs=2", "report.draws=100", "data.expert_labels=null", "logger.mode=disabled"]
    return ["n=2", "first=3", "experiment=demo", *places, *tiny]


@pytest.fixture(scope="module")
def seeds(command: list[str]) -> tuple[Path, str]:
    """The parent folder, and what the second start said."""
    folder = Path(next(word for word in command if word.startswith("hydra.run.dir=")).partition("=")[2])
    process = subprocess.Popen([sys.executable, str(PROJECT / "scripts/seeds.py"), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 280
        while not (folder / "seed_4/checkpoints/resume.ckpt").is_file():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim = look_at(process.pid)
        assert victim is not None
        assert kill(victim)
    finally:
        process.kill()
        process.communicate()  # of its training too, which ends with it
    assert (folder / "seed_3/report/report.json").is_file()
    assert not (folder / "seed_4/report/report.json").exists()
    assert not (folder / "seeds.json").exists()
    done = call("scripts/seeds.py", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_started_again_it_skips_what_is_finished_and_goes_on_with_the_rest(seeds: tuple[Path, str]) -> None:
    folder, told = seeds
    assert "Seed 3 is finished" in told
    assert "Going on after step" in told
    assert told.count("Predicting") == 1
    configs = [yaml.safe_load((folder / f"seed_{seed}/config.yaml").read_text()) for seed in (3, 4)]
    assert [config.pop("seed") for config in configs] == [3, 4]
    assert configs[0] == configs[1]
    assert configs[0]["logger"]["group"] == "demo_seeds_parent"


def test_the_summary_is_the_mean_and_the_scatter_of_the_reports_and_an_interval_by_patient(seeds: tuple[Path, str]) -> None:
    folder, told = seeds
    summary = json.loads((folder / "seeds.json").read_text())
    reports = [json.loads((folder / f"seed_{seed}/report/report.json").read_text())["reference_sets"] for seed in (3, 4)]
    assert list(summary["candidates"]) == ["demo"]
    n_checked = 0
    for name, part in summary["reference_sets"].items():
        for finding, row in part["findings"].items():
            areas = [report[name]["findings"][finding]["auroc"] for report in reports]
            if row["auroc"] is None:
                continue
            of = row["auroc"]["demo"]
            values = [area["value"] for area in areas]
            assert (of["value"], of["sd_seeds"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-12)
            assert of["by_seed"] == pytest.approx(values, abs=1e-12)
            assert of["lo"] < of["value"] < of["hi"]
            n_checked += 1
    assert n_checked > 10
    macro = summary["reference_sets"]["nih_test"]["macro"]["auroc"]["demo"]
    assert macro["value"] == pytest.approx(np.mean([report["nih_test"]["macro"]["auroc"]["value"] for report in reports]), abs=1e-12)
    assert f"{macro['value']:.3f}" in told
    assert "SD over seeds" in (folder / "seeds.md").read_text()
    assert (folder / "figures/seeds.png").stat().st_size > 0
    assert str(folder.parent) not in json.dumps(summary)


def test_a_folder_of_another_recipe_is_refused_by_name(seeds: tuple[Path, str], command: list[str]) -> None:
    done = call("scripts/seeds.py", *command, "optim.lr=0.001")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "optim.lr: 0.003, now 0.001" in done.stderr
    assert "hydra.run.dir=" in done.stderr


def test_a_seed_that_fails_ends_it_with_its_own_message_and_status(tmp_path: Path) -> None:
    done = call("scripts/seeds.py", "n=2", "data=cxr14", f"data.root={tmp_path / 'nowhere'}", f"hydra.run.dir={tmp_path / 'parent'}")
    assert done.returncode == 1
    assert str(tmp_path / "nowhere") in done.stderr
    assert "error: seed 0 failed, as told above" in done.stderr
    assert sorted(os.listdir(tmp_path / "parent")) == ["lock", "seed_0", "seeds.log"]


@pytest.mark.parametrize(
    ("argument", "told"), [("seed=1", "first="), ("look_at_test=false", "look_at_test"), ("n=1", "between 2"), ("optim.lrr=1", "did you mean lr?")]
)
def test_what_makes_no_sense_is_one_line(argument: str, told: str, tmp_path: Path) -> None:
    done = call("scripts/seeds.py", argument, f"hydra.run.dir={tmp_path}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert told in done.stderr
