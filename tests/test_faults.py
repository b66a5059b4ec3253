"""What can go wrong under a training, made to go wrong for real: one message each, nothing lost, and the run goes on to the bytes that it would have had.

docs/faults.md tells the same to users.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import call

from cxr.config import PROJECT
from cxr.model.checkpoint import read_checkpoint
from cxr.trials.processes import descendants, kill
from cxr.trials.torture import same_training

SETTINGS = (
    *("trainer.max_epochs=3", "optim.warmup_steps=5", "trainer.checkpoint_every_minutes=0", "deterministic=true", "data.num_workers=1"),
    *("data.expert_labels=null", "report.draws=100", "report.reader_draws=100", "logger.mode=disabled"),
)
ENVIRONMENT = {"WANDB_MODE": ""}


@pytest.fixture(scope="module")
def undisturbed(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = call("train.py", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}", *SETTINGS, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return folder


def copy_without_results(run: Path, to: Path) -> Path:
    """The run as it was when its training had just ended."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "report")
    (to / "predictions.parquet").unlink()
    return to


def rot(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr, done.stderr
    assert "Logging error" not in done.stderr, done.stderr
    # torch ends its word of a bus error in a data process with a NUL
    return [line for line in (line.strip("\0 ") for line in done.stderr.splitlines()) if line.startswith("error:")]


# --- disks ------------------------------------------------------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system in memory, of a size that can be changed; in this process's own name space of mounts, so that it goes when the process does."""

    def __init__(self, place: Path):
        self.place = place
        place.mkdir()

    def mount(self, size: str, *options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", str(self.place)], check=True)


def on_a_small_disk(scenario: str, *arguments: object) -> None:
    """Runs a function of this file in a process that may mount."""
    words = [sys.executable, __file__, scenario, *map(str, arguments)]
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    if not allowed:
        if os.environ.get("CI") == "true":
            pytest.fail("a small disk cannot be mounted here, and CI=true asks for it")
        pytest.skip("NO SMALL DISK: this user may not mount (unshare -rm)")
    done = subprocess.run(["unshare", "-rm", *words], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def full_while_preparing(place: Path, mini: Path) -> None:
    disk = SmallDisk(place / "disk")
    disk.mount("700k")
    command = ("scripts/prepare.py", f"data.root={mini}", "data.image_size=64", f"hydra.run.dir={place / 'prepare'}")
    done = call(*command, f"data.store_dir={disk.place}")
    (told,) = errors(done)
    assert done.returncode == 1
    assert "mini_73.partial: the disk is full" in told
    assert not list(disk.place.glob("*/meta.json"))
    disk.mount("100m", "remount")
    assert call(*command, f"data.store_dir={disk.place}").returncode == 0
    assert call(*command, f"data.store_dir={place / 'elsewhere'}").returncode == 0
    (one,), (other,) = disk.place.iterdir(), (place / "elsewhere").iterdir()
    assert all((one / path.name).read_bytes() == path.read_bytes() for path in other.iterdir())


def full_while_training(place: Path, mini: Path, undisturbed: Path) -> None:
    disk = SmallDisk(place / "disk")
    disk.mount("12m")  # two checkpoints and a half
    run = disk.place / "run"
    done = call("train.py", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={run}", *SETTINGS, **ENVIRONMENT)
    (told,) = errors(done)
    assert done.returncode == 1
    assert re.search(rf"{run}/\S+(ckpt|safetensors): the disk is full", told)
    assert f"python train.py resume={run}" in told
    whole = list((run / "checkpoints").glob("*.ckpt"))
    assert whole
    assert all(read_checkpoint(path) for path in whole)
    disk.mount("100m", "remount")
    # and the newest checkpoint rots as well: that costs the steps since the one before
    rot(run / "checkpoints/resume.ckpt")
    done = call("train.py", f"resume={run}", **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "Going on from the one before" in done.stdout + done.stderr
    assert same_training(run, undisturbed)


def full_while_predicting_and_evaluating(place: Path, mini: Path, undisturbed: Path) -> None:
    disk = SmallDisk(place / "disk")
    disk.mount("100m")
    run = copy_without_results(undisturbed, disk.place / "run")

    def fill(left: int) -> None:
        room = os.statvfs(disk.place)
        with (disk.place / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - left)

    def fill_when(come: Callable[[], bool], left: int) -> subprocess.CompletedProcess[str]:
        (disk.place / "filler").unlink(missing_ok=True)
        (run / "train.log").write_text("")
        words = [sys.executable, str(PROJECT / "train.py"), f"resume={run}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT) as process:
            while not come():
                assert process.poll() is None
                time.sleep(0.002)
            fill(left)
            out, told = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, told)

    done = fill_when(lambda: "Predicting" in (run / "train.log").read_text(), 16_000)  # a little for the log, not for the predictions
    (told,) = errors(done)
    assert "predictions.parquet: the disk is full" in told
    assert not (run / "predictions.parquet").exists()

    (disk.place / "filler").unlink()
    done = call("train.py", f"resume={run}", **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert same_training(run, undisturbed)

    before = (run / "report/report.html").read_bytes()
    fill(16_000)
    done = call("scripts/evaluate.py", f"run={run}", f"hydra.run.dir={place / 'evaluate'}")
    (told,) = errors(done)
    assert "the disk is full" in told
    assert (run / "report/report.html").read_bytes() == before


def test_a_disk_that_is_full_while_preparing(tmp_path: Path, mini: Path) -> None:
    on_a_small_disk("full_while_preparing", tmp_path, mini)


def test_a_disk_that_is_full_while_training(tmp_path: Path, mini: Path, undisturbed: Path) -> None:
    on_a_small_disk("full_while_training", tmp_path, mini, undisturbed)


def test_a_disk_that_is_full_while_predicting_and_evaluating(tmp_path: Path, mini: Path, undisturbed: Path) -> None:
    on_a_small_disk("full_while_predicting_and_evaluating", tmp_path, mini, undisturbed)


# --- what a training needs, taken away from it --------------------------------------------------------------------------------------------------------


def disturb(folder: Path, mini: Path, stores: Path, action: Callable[[int], None], *settings: str) -> subprocess.CompletedProcess[str]:
    """Starts a long training, does something to it when it has a checkpoint, and waits for its end."""
    words = ["train.py", f"data.root={mini}", f"data.store_dir={stores}", f"hydra.run.dir={folder}", *SETTINGS, "trainer.max_epochs=500", *settings]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=os.environ | ENVIRONMENT
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "checkpoints/resume.ckpt").is_file():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            action(process.pid)
            out, told = process.communicate(timeout=90)
        finally:
            for child in descendants(process.pid):
                kill(child)
            process.kill()
    return subprocess.CompletedProcess(words, process.returncode, out, told)


def kept(folder: Path) -> bool:
    """A whole checkpoint, and nothing that could be taken for a result."""
    return read_checkpoint(folder / "checkpoints/resume.ckpt")["global_step"] > 0 and not (folder / "predictions.parquet").exists()


def test_a_store_that_is_cut_under_a_training(tmp_path: Path, mini: Path, undisturbed: Path) -> None:
    """(tests/data/test_store.py: one that is overwritten.)"""
    stores = tmp_path / "stores"
    shutil.copytree(mini.parent / "stores", stores)

    def cut(pid: int) -> None:
        for images in stores.glob("*/images.npy"):
            os.truncate(images, images.stat().st_size // 2)

    done = disturb(tmp_path / "run", mini, stores, cut)
    assert done.returncode == 1, done.stderr
    (told,) = errors(done)
    assert "images.npy was changed while it was read" in told
    assert "python train.py resume=" in told
    assert kept(tmp_path / "run")


def test_a_data_process_that_is_killed(tmp_path: Path, mini: Path, undisturbed: Path) -> None:
    done = disturb(tmp_path / "run", mini, mini.parent / "stores", lambda pid: kill(next(child for child in descendants(pid) if child.parent == pid)) or None)
    assert done.returncode == 1
    (told,) = errors(done)
    assert "a process that prepares batches" in told
    assert "data.num_workers" in told
    assert kept(tmp_path / "run")


def test_one_of_two_training_processes_that_is_killed(tmp_path: Path, mini: Path, undisturbed: Path) -> None:
    def kill_the_second(pid: int) -> None:
        (second,) = [child for child in descendants(pid) if child.parent == pid and "train.py" in " ".join(child.command)]
        assert kill(second)

    done = disturb(tmp_path / "run", mini, mini.parent / "stores", kill_the_second, "trainer.devices=2", "trainer.strategy=ddp", "data.num_workers=0")
    assert done.returncode == 1
    assert "process 1 of this job was killed by signal 9" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept(tmp_path / "run")


# runs at the start of every Python process that finds it; the tenth step finds the GPU's memory full
OUT_OF_MEMORY = """
import sys, threading, time
def spoil():
    while not hasattr(sys.modules.get("cxr.model.classifier"), "Classifier"):
        time.sleep(0.01)
    import torch
    Classifier = sys.modules["cxr.model.classifier"].Classifier
    step = Classifier.training_step
    def training_step(self, batch, batch_idx):
        if self.global_step == 10:
            assert torch.are_deterministic_algorithms_enabled()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, batch, batch_idx)
    Classifier.training_step = training_step
threading.Thread(target=spoil, daemon=True).start()
"""


def test_a_gpu_whose_memory_is_too_small(tmp_path: Path, mini: Path) -> None:
    """Simulated: the error of torch, raised in a step of the real command. The step also sees that deterministic=true has reached torch."""
    (tmp_path / "spoil").mkdir()
    (tmp_path / "spoil/sitecustomize.py").write_text(OUT_OF_MEMORY)
    places = (f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={tmp_path / 'run'}")
    done = call("train.py", *places, *SETTINGS, PYTHONPATH=str(tmp_path / "spoil"), **ENVIRONMENT)
    assert done.returncode == 1
    (told,) = errors(done)
    for key in ("data.batch_size", "trainer.accumulate_grad_batches", "data.image_size", "trainer.precision=bf16-mixed"):
        assert key in told
    assert read_checkpoint(tmp_path / "run/checkpoints/resume.ckpt")["global_step"] == 10


# --- files that rot, stages that are killed -----------------------------------------------------------------------------------------------------------


def test_an_evaluation_that_is_killed_leaves_the_report_that_was_there_and_can_be_run_again(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = {path: path.read_bytes() for path in (run / "report").rglob("*") if path.is_file()}
    words = [sys.executable, str(PROJECT / "scripts/evaluate.py"), f"run={run}", f"hydra.run.dir={tmp_path / 'evaluate'}"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any((run / "report.partial/figures").glob("*")):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -9
    assert {path: path.read_bytes() for path in (run / "report").rglob("*") if path.is_file()} == before
    assert call("scripts/evaluate.py", f"run={run}", f"hydra.run.dir={tmp_path / 'evaluate'}").returncode == 0
    assert same_training(run, undisturbed)
    assert json.loads((run / "report/report.json").read_text())["protocol"]["provenance"]["looks"]["n"] >= 2
    assert not (run / "report.partial").exists()


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(Path, sys.argv[2:]))
