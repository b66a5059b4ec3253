"""Logging over the network, against a server on this machine: one run however often it was interrupted, and no run lost to a server that is gone."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import call
from wandb_server import WandbServer

# one part of a run: logs a curve from step to step, and ends well or is killed
PART = """
import os, sys
from pathlib import Path
from cxr import tracking
folder, mode, first, last, killed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "killed"
place = tracking.Place("cxr", entity=None, group="g", name="n", job_type="train", tags=[], mode=mode)
loggers = tracking.make_loggers(folder, place, first_process=True, config={"seed": 0}, run_id="abc12345", first_step=first)
for logger in loggers:
    for step in range(first, last, 10):
        logger.log_metrics({"train/loss": 1 / (step + 1), "epoch": 0}, step)
        logger.log_metrics({"val/auroc_macro": step / 100}, step)
if killed:
    os._exit(9)
tracking.finish(loggers, 0)
"""


def part(server: WandbServer, folder: Path, mode: str, first: int, last: int, end: str = "ended") -> None:
    done = subprocess.run(
        [sys.executable, "-c", PART, str(folder), mode, str(first), str(last), end],
        env=server.client_environment(mode),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (9 if end == "killed" else 0), done.stderr


def curves(server: WandbServer) -> dict[str, dict[int, set[float]]]:
    """metric -> step -> the values sent for it, of the one run."""
    ((name, run),) = server.runs.items()
    assert name == "abc12345"
    found: dict[str, dict[int, set[float]]] = {"train/loss": {}, "val/auroc_macro": {}}
    for row in run.history.values():
        for metric, steps in found.items():
            if metric in row:
                steps.setdefault(row["_step"], set()).add(row[metric])
    return found


def sync(server: WandbServer, *folders: Path) -> None:
    program = Path(sys.executable).with_name("wandb")
    subprocess.run(
        [program, "sync", "--include-online", "--no-skip-synced", *folders],
        env=server.client_environment("online"),
        check=True,
        capture_output=True,
        timeout=60,
    )


EVERY_STEP = {
    "train/loss": {step: {1 / (step + 1)} for step in range(0, 90, 10)},
    "val/auroc_macro": {step + 1: {step / 100} for step in range(0, 90, 10)},
}


def test_a_killed_run_and_the_one_that_goes_on_are_one_run_that_has_every_step(tmp_path: Path) -> None:
    with WandbServer() as server:
        part(server, tmp_path, "online", 0, 50, "killed")
        part(server, tmp_path, "online", 30, 90)
        assert curves(server) == EVERY_STEP


def test_offline_parts_become_one_run_and_the_last_of_them_tells_every_step(tmp_path: Path) -> None:
    with WandbServer() as server:
        part(server, tmp_path, "offline", 0, 50)
        part(server, tmp_path, "offline", 30, 90)
        first, last = sorted(tmp_path.glob("wandb/offline-run-*"))
        sync(server, first, last)
        assert curves(server) == EVERY_STEP
    # what W&B wrote of a killed part may be torn, and `wandb sync` of both then sends nothing
    os.truncate(next(first.glob("*.wandb")), 100)
    with WandbServer() as server:
        sync(server, tmp_path / "wandb/latest-run")
        assert curves(server) == EVERY_STEP


def test_a_training_whose_server_goes_away_ends_as_if_it_had_not(mini: Path, tmp_path: Path) -> None:
    with WandbServer() as server:

        def leave() -> None:
            while not any(path.endswith("file_stream") for path, _ in server.sent):
                time.sleep(0.05)
            server.listener.shutdown()
            server.listener.server_close()

        threading.Thread(target=leave, daemon=True).start()
        places = [f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={tmp_path / 'run'}", "data.expert_labels=null"]
        settings = ["trainer.max_epochs=6", "report.draws=100", "report.reader_draws=100", "logger.wait_seconds=5"]
        done = call("train.py", *places, *settings, **server.client_environment("online"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/report/report.json").read_text())["reference_sets"]["nih_test"]["macro"]["auroc"]
    assert "Traceback" not in done.stderr
    assert f"wandb sync {tmp_path}/run/wandb/latest-run" in done.stdout

    with WandbServer() as server:  # back again
        sync(server, tmp_path / "run/wandb/latest-run")
        ((_, run),) = server.runs.items()
    assert sum("val/auroc_macro" in row for row in run.history.values()) == 6
    assert "test/nih_test/auroc_macro" in run.summary


@pytest.mark.parametrize("asked", ["auto", "online"])
def test_a_server_that_is_not_there_at_the_start(tmp_path: Path, asked: str) -> None:
    """Offline where that was left open, one line where online was asked for."""
    script = PART.replace("mode=mode)", f"mode=mode, may_be_offline={asked == 'auto'}, wait_seconds=3)")
    with WandbServer() as server:
        environment = server.client_environment("online")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "online", "0", "30", "ended"], env=environment, capture_output=True, text=True, timeout=60
    )
    if asked == "auto":
        assert done.returncode == 0, done.stderr
        assert "this run is logged offline" in done.stderr
        assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    else:
        assert done.returncode == 1
        assert "TrackingError: W&B does not take this run" in done.stderr
        assert not list(tmp_path.glob("wandb/offline-run-*"))
