"""Kills training and prepare with SIGKILL, again and again, at seeded moments; each must end, gone on with, with the bytes of one that nobody disturbed.

Everything is the real commands on the miniature, in processes of their own.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cxr.config import PROJECT
from cxr.mini import write_miniature
from cxr.report.predictions import read_predictions
from cxr.resume import REPORT, RUN, is_finished
from cxr.trials.processes import Process, descendants, freeze, kill, look_at

log = logging.getLogger(__name__)

# what is trained: everything that has a state of its own to lose
VARIANTS = {
    "no worker": ("data.num_workers=0", "model.drop_rate=0.2"),
    "two workers, accumulation, EMA, refit": (
        *("data.num_workers=2", "trainer.accumulate_grad_batches=2", "model.ema_decay=0.99", "model.drop_rate=0.2", "model.refit_c=0.001"),
    ),
    "frozen epoch, SGD, EMA": ("data.num_workers=1", "model.freeze_epochs=1", "optim=sgd", "optim.lr=0.01", "model.ema_decay=0.9"),
    "two processes": ("data.num_workers=1", "trainer.devices=2", "trainer.strategy=ddp", "model.ema_decay=0.99"),
}
SETTINGS = ("trainer.max_epochs=3", "optim.warmup_steps=5", "trainer.checkpoint_every_minutes=0", "report.draws=100", "report.reader_draws=100")
# who is hit: the training itself at any moment, or while it writes a checkpoint, or one of its helpers
TARGETS = ("training", "checkpoint write", "worker", "W&B")
SECONDS = 600


class TortureError(ValueError):
    """A run did not end as it had to; the message holds what it said."""


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it.

    Attributes:
        stage: train or prepare.
        variant, target: what was killed.
        after_s: seconds after the start.
        n_commands: started until the run was finished, the killed one included.
        same: whether it ended with the same bytes.
        said: the last line of a training that ended by itself after its helper was killed, or why it could not be brought to its end.
    """

    stage: str
    variant: str
    target: str
    after_s: float
    n_commands: int
    same: bool
    said: str = ""


def torture(folder: Path, *, n_train: int, n_prepare: int, seed: int, variants: tuple[str, ...] = tuple(VARIANTS)) -> list[Kill]:
    """Kills as often as asked.

    Args:
        folder: for everything; each run's folder goes when it ended well.
        n_train, n_prepare: kills of each stage.
        seed: of the moments.
        variants: of the training, in turn.

    Raises:
        TortureError: a run that nobody disturbed failed.
    """
    mini = folder / "mini"
    write_miniature(mini)
    rng = np.random.default_rng(seed)
    kills = []
    for hit in chain(_train(folder, mini, n_train, rng, variants), _prepare(folder, mini, n_prepare, rng)):
        log.info(
            "%s, %s, %s: killed after %.1f s, %s", hit.stage, hit.variant, hit.target, hit.after_s, "same bytes" if hit.same else f"OTHER BYTES {hit.said}"
        )
        kills.append(hit)
    return kills


def summary(kills: list[Kill]) -> str:
    """A table of who was hit, and how many ended with the same bytes."""
    rows = ["| stage | what | hit | kills | same bytes |", "|---|---|---|---|---|"]
    for key in dict.fromkeys((hit.stage, hit.variant, hit.target) for hit in kills):
        hits = [hit for hit in kills if (hit.stage, hit.variant, hit.target) == key]
        rows.append(f"| {' | '.join(key)} | {len(hits)} | {sum(hit.same for hit in hits)} |")
    return "\n".join([*rows, f"| | | all | {len(kills)} | {sum(kill.same for kill in kills)} |"])


# --- training ---------------------------------------------------------------------------------------------------------------------------------------


def _train(folder: Path, mini: Path, n_kills: int, rng: np.random.Generator, variants: tuple[str, ...]) -> Iterator[Kill]:
    def command(variant: str, run: Path) -> list[str]:
        places = (f"data.root={mini}", f"data.store_dir={folder / 'stores'}", f"hydra.run.dir={run}")
        return ["train.py", *places, *SETTINGS, *VARIANTS[variant]]

    undisturbed, seconds = dict[str, Path](), dict[str, float]()
    for variant in tqdm(variants[:n_kills], desc="undisturbed runs", disable=None):
        undisturbed[variant] = folder / f"undisturbed_{len(undisturbed)}"
        start = time.monotonic()
        _finish(command(variant, undisturbed[variant]))
        seconds[variant] = time.monotonic() - start
    for number in tqdm(range(n_kills), desc="killing trainings", unit="kill", disable=None):
        variant = variants[number % len(variants)]
        target = TARGETS[number // len(variants) % len(TARGETS)]
        if target == "worker" and "data.num_workers=0" in VARIANTS[variant]:
            target = "training"
        run, moment = folder / f"killed_{number}", rng.random()
        try:
            yield _kill_and_finish(command(variant, run), run, variant, target, moment, seconds[variant], undisturbed[variant])
        except TortureError as error:
            yield Kill("train", variant, target, 0.0, 0, False, str(error))


def _kill_and_finish(command: list[str], run: Path, variant: str, target: str, moment: float, seconds: float, undisturbed: Path) -> Kill:
    """One kill of one training, which is then gone on with until it is finished, and compared."""
    for _ in range(10):
        hit = _kill_training(command, run, target, moment, seconds)
        if hit:
            break
        shutil.rmtree(run)  # it was over before it was hit
        moment *= 0.7
    else:
        raise TortureError(f"{target} of {variant} could not be hit")
    after_s, said = hit
    n_commands = 1
    while not is_finished(run):
        n_commands += 1
        if n_commands > 5:
            raise TortureError(f"{run}: not finished after {n_commands} commands")
        _finish(["train.py", f"resume={run}"] if (run / RUN).is_file() else command)
    same = same_training(run, undisturbed)
    if same:
        shutil.rmtree(run)
    return Kill("train", variant, target, after_s, n_commands, same, said)


def _kill_training(command: list[str], run: Path, target: str, moment: float, seconds: float) -> tuple[float, str] | None:
    """Starts a training and kills it, or its helper: (seconds until then, its last words); None if it ended before it was hit."""
    start, console = time.monotonic(), run.with_suffix(".log")
    with console.open("wb") as out, subprocess.Popen([sys.executable, str(PROJECT / command[0]), *command[1:]], stdout=out, stderr=out, cwd=PROJECT) as process:
        victim = _victim(process, run, target, start, moment, seconds)
        hit = victim is not None and kill(victim)
        after_s = time.monotonic() - start
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise TortureError(f"{run}: it hung after its {target} was killed; it said:\n{console.read_text(errors='replace')[-2000:]}") from None
    said = console.read_text(errors="replace").strip().splitlines()
    if not hit or victim is None:
        return None
    if victim.pid == process.pid:
        # within the write: what it wrote to is still there under its other name
        torn = target != "checkpoint write" or list((run / "checkpoints").glob("*.tmp"))
        return (after_s, "") if process.returncode == -9 and torn else None
    if "Traceback" in "\n".join(said):
        raise TortureError(f"{run}: a bare traceback after its {target} was killed:\n" + "\n".join(said[-40:]))
    return after_s, said[-1] if said else ""


def _victim(process: "subprocess.Popen[bytes]", run: Path, target: str, start: float, moment: float, seconds: float) -> Process | None:
    """The process to kill, when its time has come; None if the training ends before.

    Args:
        process, run, target: what is killed.
        start: when the training was started.
        moment: in [0, 1], how far into the training.
        seconds: that an undisturbed one takes.
    """
    # of checkpoints, the last of which is hit; several processes agree on one only where they log, some five times in all
    n_writes = 1 + int(moment * (5 if "trainer.devices=2" in map(str, process.args) else 30))
    seen, writing, began = 0, False, 0.0
    while process.poll() is None:
        if target == "training":
            if time.monotonic() - start >= moment * seconds:
                return look_at(process.pid)
            time.sleep(0.002)
        elif target == "checkpoint write":
            was_writing, writing = writing, any((run / "checkpoints").glob("*.tmp"))
            seen += writing and not was_writing
            if writing and seen >= n_writes:
                victim = freeze(process.pid)
                if any((run / "checkpoints").glob("*.tmp")):  # within the write, and it stays there
                    return victim
                process.send_signal(signal.SIGCONT)
        else:
            if not began and (run / "checkpoints/resume.ckpt").is_file():
                began = time.monotonic()
            if began and time.monotonic() - began >= 3 * moment:
                found = [child for child in descendants(process.pid) if _is(child, target, process)]
                if found:
                    return found[int(moment * 1000) % len(found)]
            time.sleep(0.01)
    return None


def _is(child: Process, target: str, process: "subprocess.Popen[bytes]") -> bool:
    if target == "W&B":
        return any("wandb-core" in word for word in child.command[:1])
    # a worker is a fork of the training, and has its words
    main = look_at(process.pid)
    return main is not None and child.parent == process.pid and child.command == main.command


def same_training(one: Path, other: Path) -> bool:
    """The weights, every column of the predictions, and the report but for when, where and how often."""

    def report(folder: Path) -> Any:
        content = json.loads((folder / REPORT).read_text())
        del content["protocol"]["provenance"]
        return content

    weights = [(folder / "model.safetensors").read_bytes() for folder in (one, other)]
    tables = [read_predictions(folder / "predictions.parquet").table for folder in (one, other)]
    return weights[0] == weights[1] and tables[0].equals(tables[1]) and report(one) == report(other)


# --- prepare ----------------------------------------------------------------------------------------------------------------------------------------


def _prepare(folder: Path, mini: Path, n_kills: int, rng: np.random.Generator) -> Iterator[Kill]:
    def command(stores: Path) -> list[str]:
        return ["scripts/prepare.py", f"data.root={mini}", f"data.store_dir={stores}", "data.image_size=224", f"hydra.run.dir={folder / 'prepare'}"]

    if not n_kills:
        return
    undisturbed = folder / "stores_undisturbed"
    _finish(command(undisturbed))
    for number in tqdm(range(n_kills), desc="killing prepare", unit="kill", disable=None):
        stores, moment = folder / f"stores_{number}", rng.random()
        n_commands, after_s = 0, 0.0
        hit = False
        while not hit:
            shutil.rmtree(stores, ignore_errors=True)
            hit, after_s = _kill_prepare(command(stores), stores, moment)
            moment *= 0.8
            n_commands = 1
        _finish(command(stores))
        one, other = next(stores.iterdir()), next(undisturbed.iterdir())
        names = sorted(path.name for path in other.iterdir())
        same = sorted(path.name for path in one.iterdir()) == names and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
        if same:
            shutil.rmtree(stores)
        yield Kill("prepare", "the miniature at 256 pixels", "prepare", after_s, n_commands + 1, same)


def _kill_prepare(command: list[str], stores: Path, moment: float) -> tuple[bool, float]:
    with subprocess.Popen([sys.executable, str(PROJECT / command[0]), *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        began = None
        while process.poll() is None:
            if began is None and any(stores.glob("*.partial")):
                began = time.monotonic()
            if began is not None and time.monotonic() - began >= moment:
                victim = look_at(process.pid)
                hit = victim is not None and kill(victim)
                process.wait()
                return hit and process.returncode == -9, time.monotonic() - began
            time.sleep(0.001)
    return False, 0.0


def _finish(command: list[str]) -> None:
    """Runs a command that nobody disturbs."""
    done = subprocess.run([sys.executable, str(PROJECT / command[0]), *command[1:]], capture_output=True, text=True, cwd=PROJECT, timeout=SECONDS)
    if done.returncode:
        raise TortureError(f"{' '.join(command)} failed with status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
