"""Mirrors resume.py, and drives the promise by the real commands: a run that was stopped, or killed, and gone on with ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import call

from cxr import resume
from cxr.config import PROJECT
from cxr.resume import ResumeError, agree, arguments, begin, config_sha256
from cxr.trials.torture import torture

PLAIN = {"data": {"root": "/films", "num_workers": None, "batch_size": 64}, "trainer": {"max_epochs": 3, "devices": 1}, "logger": {"mode": "auto"}, "seed": 0}


def run_folder(folder: Path, plain: dict = PLAIN) -> Path:
    folder.mkdir(parents=True)
    begin(folder, plain, choices={"model": "tiny", "experiment": "demo"}, commit="c")
    return folder


def test_what_cannot_change_a_number_may_differ_and_is_taken() -> None:
    composed = PLAIN | {"data": PLAIN["data"] | {"root": "/elsewhere", "num_workers": 4}}
    agreed = agree(PLAIN, composed, ["data.root=/elsewhere", "data.num_workers=4", "seed=0", "resume=x"], {})
    assert agreed["data"] == {"root": "/elsewhere", "num_workers": 4, "batch_size": 64}
    assert config_sha256(agreed) == config_sha256(PLAIN)
    closed = PLAIN | {"look_at_test": False}
    assert config_sha256(closed) == config_sha256(PLAIN)
    assert agree(closed, PLAIN | {"look_at_test": True}, ["look_at_test=true"], {})["look_at_test"] is True


def test_what_can_change_a_number_is_refused_with_both_values() -> None:
    composed = PLAIN | {"data": PLAIN["data"] | {"batch_size": 32}}
    with pytest.raises(ResumeError, match=r"data\.batch_size=32 \(the run: 64\), model=swin \(the run: tiny\)"):
        agree(PLAIN, composed, ["data.batch_size=32", "model=swin"], {"model": "tiny"})
    # what was not typed is the run's, whatever the files under configs/ have become
    assert agree(PLAIN, composed, ["model=tiny"], {"model": "tiny"}) == PLAIN


def test_a_run_that_goes_on_has_the_options_it_was_started_with(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a run")
    made = arguments(["data.num_workers=2", f"resume={folder}"])
    assert made == ["model=tiny", "experiment=demo", "data.num_workers=2", f'resume="{folder}"', f'hydra.run.dir="{folder}"', "hydra.output_subdir=null"]
    assert arguments(["model=swin", f"resume={folder}"])[0] == "experiment=demo"
    for typed in (["seed=1"], ["resume=auto"], ["resume=null"]):
        assert arguments(typed) == typed


@pytest.mark.parametrize(("file", "content"), [("run.json", "{"), ("run.json", "[]"), ("config.yaml", "a: ["), ("config.yaml", "- 1"), ("config.yaml", "\0")])
def test_a_damaged_run_folder_is_one_line(tmp_path: Path, file: str, content: str) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / file).write_text(content)
    with pytest.raises(ResumeError, match="is damaged"):
        resume.read(folder)


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = call("train.py", f"resume={tmp_path}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no run that could go on" in done.stderr


def test_auto_finds_the_newest_unfinished_run_of_the_same_configuration(tmp_path: Path) -> None:
    for name in ("2026-01-01", "2026-01-02", "2026-01-03"):
        run_folder(tmp_path / name)
    run_folder(tmp_path / "2026-01-04", PLAIN | {"seed": 1})
    (tmp_path / "2026-01-03/report").mkdir()
    (tmp_path / "2026-01-03/report/report.json").write_text("{}")
    assert [path.name for path in resume.unfinished(tmp_path, config_sha256(PLAIN))] == ["2026-01-02", "2026-01-01"]


def test_killed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    """A short form of scripts/torture.py."""
    kills = torture(tmp_path, n_train=1, n_prepare=1, seed=3, variants=("two workers, accumulation, EMA, refit",))
    assert [(kill.stage, kill.same) for kill in kills] == [("train", True), ("prepare", True)]
    assert all(kill.n_commands >= 2 for kill in kills)


def test_a_run_that_is_told_to_stop_keeps_its_step_says_so_and_goes_on(mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    places = [f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}"]
    settings = ["trainer.max_epochs=400", "data.num_workers=1", "data.expert_labels=null"]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "train.py"), *places, *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints/resume.ckpt").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)  # as a batch system does: its workers and W&B too
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "stopped by SIGTERM after step" in told
    assert f"python train.py resume={folder}" in told
    assert "Traceback" not in told
    assert not (folder / "predictions.parquet").exists()

    done = call("train.py", f"resume={folder}", "trainer.max_epochs=2")
    assert done.returncode == 1
    assert "trainer.max_epochs=2 (the run: 400)" in done.stderr
    id_before = json.loads((folder / "run.json").read_text())["wandb_id"]
    assert all(path.name.endswith(id_before) for path in folder.glob("wandb/offline-run-*"))


def test_a_run_that_is_told_to_stop_before_it_trains_says_so_too(mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    places = [f"data.root={mini}", f"data.store_dir={tmp_path / 'stores'}", f"hydra.run.dir={folder}"]
    process = subprocess.Popen([sys.executable, str(PROJECT / "train.py"), *places, "trainer.max_epochs=400"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "run.json").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75
    assert told.startswith("stopped by SIGUSR1")
    assert told.endswith(f"python train.py resume={folder}\n")
