"""Searching for a better recipe on validation films. The only file that imports optuna.

A study is a folder that all workers share; a trial is a run folder in it, trained by train.py in a process of its own. A worker holds a lock in the folder of
the trial that it trains: whoever can take that lock knows that the worker is dead, and gives its trial up for lost.
"""

import csv
import json
import logging
import math
import os
import platform
import re
import subprocess
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import optuna
import yaml
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

import cxr
from cxr import resume
from cxr.atomic import BusyError, claim, write_whole
from cxr.config import PROJECT, Config, Sweep, SweepConfig, from_plain, register
from cxr.model.interruption import INTERRUPTED, Interrupted, StopRequest
from cxr.resume import FILES, file_sha256, settings
from cxr.run import RunError
from cxr.run.children import overrides, start_training
from cxr.run.provenance import git_commit, now, plain_config, validation_in_words

log = logging.getLogger(__name__)

METRIC = "val/auroc_macro"
JOURNAL, WORKER_LOCK, CONSOLE = "journal.log", "worker.lock", "console.txt"
# between two looks at a training, and at what other workers do
POLL_S, WAIT_S = 0.2, 2.0
# of a worker on a machine without a common disk: how often it says that it lives, and after what silence it does not
HEARTBEAT_S, SILENCE_S = 60, 300
MAX_FAILURES = 3
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Recipe:
    """What all trials have in common.

    Attributes:
        choices: group -> option, as train.py takes them.
        deltas: dotted key -> value, of what else differs from the files under configs/.
        space: key or group -> the values it may have.
        known_by: what two workers of one study must agree on.
    """

    choices: Mapping[str, str]
    deltas: Mapping[str, Any]
    space: Mapping[str, BaseDistribution]
    known_by: Mapping[str, Any]

    def command(self, drawn: Mapping[str, str]) -> list[str]:
        """Arguments of train.py: name of a parameter -> its value as Hydra writes it."""
        groups = {group: drawn.get(group, choice) for group, choice in self.choices.items()}
        return [
            *(f"{group}={choice}" for group, choice in groups.items()),
            *overrides(self.deltas),
            *(f"{name}={value}" for name, value in drawn.items() if name not in groups),
        ]


def sweep(config: SweepConfig) -> None:
    """One worker: trains trials until the study, into the folder that Hydra has made, has as many as it asks for."""
    from hydra.core.hydra_config import HydraConfig

    hydra, of = HydraConfig.get(), config.sweep
    folder = Path(hydra.runtime.output_dir)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")  # we beat ourselves
    if not re.fullmatch(r"\w[\w.-]*", of.study):
        raise RunError(f"sweep.study={of.study}: letters, digits, _, - and . only, for it names files")
    if config.resume:
        raise RunError("resume: a study goes on by itself when it is started with the same sweep.study")
    choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/") and choice is not None and group != "sweep"}
    recipe = make_recipe(config, choices, {override.partition("=")[0].lstrip("+~") for override in hydra.overrides.task})
    with _common_lock(folder):
        study = open_study(of, folder, recipe.known_by)
    failures, bar = list[str](), tqdm(total=of.trials, desc=of.study, unit="trial", disable=None)
    with StopRequest() as stop:
        stop.patient = True
        while not stop.name and len(failures) < MAX_FAILURES:
            with _common_lock(folder):
                _give_up_the_lost(study, of, folder)
                trials = study.get_trials(deepcopy=False)
                n_finished = sum(trial.state in FINISHED for trial in trials)
                n_running = sum(trial.state is TrialState.RUNNING for trial in trials)
                bar.update(n_finished - bar.n)
                if n_finished >= of.trials:
                    break
                taken = _take_trial(study, of, recipe, folder) if n_finished + n_running < of.trials else None
            if taken is None:  # the last ones are with other workers, who may yet lose them
                time.sleep(WAIT_S)
                continue
            max_epochs = int(taken.drawn.get("trainer.max_epochs", config.trainer.max_epochs))
            reason = _train(study, taken, recipe, of, max_epochs, stop)
            failures = [*failures, reason] if reason else []
    bar.close()
    with _common_lock(folder):
        rows = table(study)
        write_results(config, recipe, folder, rows, sweep_choice=str(hydra.runtime.choices["sweep"]))
    if stop.name:
        raise Interrupted(f"stopped by {stop.name}; the study goes on with the same command")
    if len(failures) >= MAX_FAILURES:
        raise RunError(f"{MAX_FAILURES} trials in a row failed, the last with: {failures[-1]}\n  What they said is in {folder}/<trial>/{CONSOLE}")


# --- what is searched -------------------------------------------------------------------------------------------------------------------------------


def make_recipe(config: SweepConfig, choices: Mapping[str, str], typed: Collection[str]) -> Recipe:
    """Everything that is mistaken in a space or a fixed key is said here, before a trial begins.

    Args:
        config: of the sweep.
        choices: group -> option.
        typed: names on the command line, which must not be searched too; what a file says of a key gives way to the search.

    Raises:
        RunError: of the space. What Hydra and OmegaConf say of a key or a value.
    """
    register(Config)  # from here on, train.yaml means what it means for train.py
    space = read_space(config.sweep.space)
    plain = plain_config(config)
    del plain["sweep"]
    for group, key in (("logger", "group"), ("look_at_test", "")):  # ours to set
        plain |= {group: plain[group] | {key: config.sweep.study}} if key else {group: False}
    base = compose([f"{group}={choice}" for group, choice in choices.items()])
    if both := [name for name in space if name in typed]:
        raise RunError(f"{both[0]} is both fixed, on the command line, and searched, in sweep.space: leave it out of the one or the other")
    deltas = {name: value for name, value in _difference(plain, base).items() if name not in space}
    fixed = {name: value for name, value in settings(plain).items() if name not in space and (name.partition(".")[0] not in space or name in deltas)}
    for name in (".".join(place) for place in FILES):  # by its content: it may lie elsewhere on another machine
        if isinstance(fixed.get(name), str) and Path(fixed[name]).is_file():
            fixed[name] = f"a file of sha256 {file_sha256(Path(fixed[name]))}"
    recipe = Recipe(choices, deltas, space, {"space": sorted(config.sweep.space), "fixed": fixed})
    first = {name: next(_ends(distribution)) for name, distribution in space.items()}
    for drawn in (first | {name: end} for name, distribution in space.items() for end in _ends(distribution)):
        compose(recipe.command(drawn))
    return recipe


def read_space(texts: list[str]) -> dict[str, BaseDistribution]:
    """Key or group -> its distribution, from what Hydra's own grammar of sweeps says.

    >>> read_space(["optim.lr=tag(log, interval(1e-4, 1e-2))", "loss=choice(bce, focal)", "trainer.max_epochs=range(5, 20, 5)"])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'optim.lr': FloatDistribution(high=0.01, log=True, low=0.0001, step=None), 'loss': CategoricalDistribution(choices=('bce', 'focal')),
     'trainer.max_epochs': IntDistribution(high=15, log=False, low=5, step=5)}
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    space = dict[str, BaseDistribution]()
    if not texts:
        raise RunError("sweep.space: nothing is searched; name at least one key, such as optim.lr=tag(log, interval(1e-4, 1e-2))")
    for text in texts:
        try:
            parsed = OverridesParser.create().parse_override(text)
            name = parsed.key_or_group
            if parsed.type is not OverrideType.CHANGE or parsed.package or name in space or name.startswith(("sweep", "hydra", "experiment")):
                raise ValueError("one key or group of train.py, each once")
            space[name] = _distribution(parsed)
        except (HydraException, ValueError) as error:
            raise RunError(f"sweep.space: {text}: {str(error).splitlines()[0]}") from error
    return space


def _distribution(parsed: Any) -> BaseDistribution:
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    value = parsed.value()
    tags: set[str] = getattr(value, "tags", set())
    if tags - ({"log"} if isinstance(value, IntervalSweep) else set()):
        raise ValueError(f"the tag {', '.join(tags)} means nothing here; there is log, of an interval")
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(parsed.sweep_string_iterator()))
    if isinstance(value, RangeSweep):
        values = sorted(map(float, parsed.sweep_string_iterator()))
        step = abs(value.step)
        if not values:
            raise ValueError("the range is empty")
        if all(isinstance(number, int) for number in (value.start, value.step)):
            return IntDistribution(int(values[0]), int(values[-1]), step=int(step))
        return FloatDistribution(values[0], values[-1], step=step)
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in tags)  # type: ignore[arg-type]
    raise ValueError("a single value is not searched: give interval(...), range(...) or choice(...), or fix it as a key of its own")


def _ends(distribution: BaseDistribution) -> Iterator[str]:
    """Every choice, or both ends."""
    if isinstance(distribution, CategoricalDistribution):
        yield from map(str, distribution.choices)
    elif isinstance(distribution, FloatDistribution | IntDistribution):
        yield from (written(distribution.low, distribution), written(distribution.high, distribution))


def written(value: Any, distribution: BaseDistribution) -> str:
    """A drawn value as Hydra reads it, numbers to four digits: what is trained can be copied from a table.

    >>> written(0.00123456789, FloatDistribution(1e-4, 1e-2))
    '0.001235'
    """
    if isinstance(distribution, FloatDistribution):
        return repr(min(max(float(f"{value:.4g}"), distribution.low), distribution.high))
    return str(value)


def compose(arguments: list[str]) -> resume.Plain:
    """The configuration that train.py would have with these arguments, checked as train.py checks it."""
    from hydra import compose as hydra_compose

    return plain_config(from_plain(Config, OmegaConf.to_container(hydra_compose("train", arguments), enum_to_str=True)))


def _difference(plain: resume.Plain, base: resume.Plain) -> dict[str, Any]:
    """Dotted key -> value, of what differs from `base`."""
    flat = {
        f"{group}.{key}" if key else group: value
        for group, inner in plain.items()
        for key, value in (inner.items() if isinstance(inner, dict) else [("", inner)])
    }
    return {name: value for name, value in flat.items() if resume.look_up(base, name) != value}


# --- the study --------------------------------------------------------------------------------------------------------------------------------------


def _common_lock(folder: Path) -> IO[str]:
    """Of all workers: held while one looks who lives, counts, and takes a trial, so that none is counted twice, or begun too many."""
    return claim(folder, "has it", wait=True)


class MendingLock(JournalFileSymlinkLock):
    """Optuna's lock of the journal, that cuts off the half line of a writer who was killed, or whose disk was full: the next line would be written onto it,
    and nobody could read on."""

    def acquire(self) -> bool:
        super().acquire()
        with open(self._lock_target_file, "r+b") as journal:
            size = journal.seek(0, os.SEEK_END)
            journal.seek(max(0, size - 1))
            if journal.read() not in (b"", b"\n"):
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True


def open_study(of: Sweep, folder: Path, known_by: Mapping[str, Any]) -> optuna.Study:
    """Begins the study, or joins it.

    Raises:
        RunError: it exists with something else that is searched or fixed, or its storage cannot be read.
    """
    pruners = optuna.pruners
    pruner = pruners.MedianPruner(n_startup_trials=of.prune_after_trials, n_warmup_steps=of.prune_after_epochs) if of.prune else pruners.NopPruner()
    where = "sweep.storage" if of.storage else str(folder / JOURNAL)
    try:
        storage: optuna.storages.BaseStorage
        if of.storage:
            storage = optuna.storages.RDBStorage(of.storage, heartbeat_interval=HEARTBEAT_S, grace_period=SILENCE_S)
        else:
            storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL), MendingLock(str(folder / JOURNAL))))
        study = optuna.create_study(study_name=of.study, storage=storage, direction="maximize", pruner=pruner, load_if_exists=True)
        before = study.user_attrs.get("known_by")
    except Exception as error:  # of whatever database driver
        # not the URL: it may hold a password
        raise RunError(f"{where}: the study cannot be opened ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})") from error
    if before is None:
        study.set_user_attr("known_by", json.loads(json.dumps(known_by)))
        return study
    was, is_now = set(before["space"]), set(known_by["space"])
    told = [f"searched: {', '.join(sorted(was - is_now)) or 'nothing'}, now {', '.join(sorted(is_now - was)) or 'nothing'}"] if was != is_now else []
    fixed = json.loads(json.dumps(known_by["fixed"]))
    told += [
        f"{name}: {before['fixed'].get(name)}, now {fixed.get(name)}"
        for name in dict.fromkeys([*before["fixed"], *fixed])
        if before["fixed"].get(name) != fixed.get(name)
    ]
    if told:
        raise RunError(f"the study {of.study} in {folder} is another one ({'; '.join(told)}). Give this one a name of its own: sweep.study=...")
    return study


def _give_up_the_lost(study: optuna.Study, of: Sweep, folder: Path) -> None:
    """Marks the trials of dead workers; under the common lock, and only while this worker has no trial itself."""
    if of.storage:
        optuna.storages.fail_stale_trials(study)
        return
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        (folder / str(trial.number)).mkdir(exist_ok=True)  # its worker may have died before it made it
        try:
            with claim(folder / str(trial.number), "trains it", name=WORKER_LOCK):
                study.tell(trial.number, state=TrialState.FAIL)
                log.warning("Trial %d is lost: its worker ended without a word. Another takes its place", trial.number)
        except BusyError:
            continue


@dataclass(frozen=True)
class Taken:
    """A trial that is ours as long as the lock is open."""

    trial: Trial
    drawn: Mapping[str, str]
    folder: Path
    lock: IO[str] = field(repr=False)


def _take_trial(study: optuna.Study, of: Sweep, recipe: Recipe, folder: Path) -> Taken:
    number = len(study.get_trials(deepcopy=False))
    # one sampler with one seed would give all workers the same trials
    seed = int(np.random.SeedSequence([of.seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=of.startup_trials, constant_liar=True)
    trial = study.ask(dict(recipe.space))
    own = folder / str(trial.number)
    own.mkdir(exist_ok=True)
    lock = claim(own, "trains it", name=WORKER_LOCK)
    drawn = {name: written(trial.params[name], distribution) for name, distribution in recipe.space.items()}
    trial.set_user_attr("drawn", drawn)
    _beat(study, of, trial)
    return Taken(trial, drawn, own, lock)


def _beat(study: optuna.Study, of: Sweep, trial: Trial) -> None:
    if of.storage:
        study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]


def _train(study: optuna.Study, taken: Taken, recipe: Recipe, of: Sweep, max_epochs: int, stop: StopRequest) -> str | None:
    """Trains a trial to its end, or prunes it; returns why it failed, if it did."""
    trial, reported, asked, beaten = taken.trial, dict[int, float](), "", time.monotonic()
    log.info("Trial %d: %s", trial.number, " ".join(f"{name}={value}" for name, value in taken.drawn.items()))
    arguments = [*recipe.command(taken.drawn), f"hydra.run.dir={resume.quoted(taken.folder)}", "hydra.output_subdir=null"]
    with taken.lock, (taken.folder / CONSOLE).open("ab") as console:
        process = start_training(arguments, console)
        try:
            while True:
                status = process.poll()
                for epoch, value in read_epochs(taken.folder / "metrics.csv").items():
                    if epoch not in reported and math.isfinite(value):
                        trial.report(value, epoch)
                        reported[epoch] = value
                        if not asked and epoch + 1 < max_epochs and trial.should_prune():
                            asked = "prune"
                            process.terminate()
                if status is not None:
                    break
                if stop.name and asked != "stop":
                    asked = "stop"
                    process.terminate()
                if time.monotonic() - beaten > HEARTBEAT_S:
                    _beat(study, of, trial)
                    beaten = time.monotonic()
                time.sleep(POLL_S)
        finally:
            process.kill()
        best = max(reported.values(), default=math.nan)
        trial.set_user_attr("epochs", len(reported))
        if reported:
            trial.set_user_attr("best", best)
        if status == 0 and reported:
            study.tell(trial, best)
            log.info("Trial %d: %s %.4f in epoch %d of %d", trial.number, METRIC, best, 1 + max(reported, key=lambda epoch: reported[epoch]), len(reported))
            return None
        if asked == "prune" and status in (INTERRUPTED, -15):
            study.tell(trial, state=TrialState.PRUNED)
            log.info("Trial %d: pruned after epoch %d at %.4f", trial.number, len(reported), best)
            return None
        reason = f"stopped by {stop.name}" if stop.name else _last_words(taken.folder / CONSOLE, process)
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
        log.warning("Trial %d failed: %s", trial.number, reason)
        return reason


def read_epochs(metrics: Path) -> dict[int, float]:
    """Epoch, from 0 -> validation AUROC, of a training that may be writing just now."""
    try:
        text = metrics.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    whole = text[: text.rfind("\n") + 1]  # a line without its end may lack digits of its last number
    rows = csv.DictReader(whole.splitlines())
    return {int(float(row["epoch"])): float(row[METRIC]) for row in rows if row.get(METRIC) and row.get("epoch")}


def _last_words(console: Path, process: "subprocess.Popen[bytes]") -> str:
    """Why a training failed: the first line of its message, or its last line."""
    lines = console.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    return f"{said} ({f'killed by signal {-process.returncode}' if process.returncode < 0 else f'status {process.returncode}'})"


# --- the results ------------------------------------------------------------------------------------------------------------------------------------


def table(study: optuna.Study) -> list[dict[str, Any]]:
    """A row per trial: number, state, value (best validation AUROC so far, None without one), epochs, drawn, reason."""

    def state(trial: FrozenTrial) -> str:
        if trial.state is TrialState.FAIL:
            return "failed" if "reason" in trial.user_attrs else "lost"
        return {TrialState.COMPLETE: "trained", TrialState.PRUNED: "pruned"}.get(trial.state, "running")

    return [
        {
            "number": trial.number,
            "state": state(trial),
            "value": trial.user_attrs.get("best"),
            "epochs": trial.user_attrs.get("epochs", len(trial.intermediate_values)),
            "drawn": trial.user_attrs.get("drawn", {}),
            "reason": trial.user_attrs.get("reason", ""),
        }
        for trial in study.get_trials(deepcopy=False)
    ]


def write_results(config: SweepConfig, recipe: Recipe, folder: Path, rows: list[dict[str, Any]], *, sweep_choice: str) -> None:
    """trials.csv, sweep.png, the page, and the best trial as an experiment file; under the common lock."""
    from cxr.report import render, sweep_page

    of, n = config.sweep, {state: sum(row["state"] == state for row in rows) for state in ("trained", "pruned", "failed", "lost", "running")}
    best = max((row for row in rows if row["state"] == "trained"), key=lambda row: row["value"], default=None)
    told = {
        "study": of.study,
        "n": n,
        "best": best,
        "trials": rows,
        "is_log": {name: bool(getattr(distribution, "log", False)) for name, distribution in recipe.space.items()},
        "protocol": {
            "data": config.data.name,
            "experiment": recipe.choices.get("experiment", "train"),
            "selection": {"metric": METRIC, "films": "validation; no test film was opened"},
            "validation": validation_in_words(config.data),
            "space": config.sweep.space,
            "sampler": f"TPE, seed {of.seed}, {of.startup_trials} trials drawn at random first",
            "pruning": f"below the median of {of.prune_after_trials} trials or more, after {of.prune_after_epochs} epochs" if of.prune else "none",
            "package_version": cxr.__version__,
            "commit": git_commit(),
            "provenance": {"reported": now(), "host": platform.node()},
        },
        "attribution": render.attribution(config.data.name, config.data.expert_labels is not None),
    }
    sweep_page.write(folder, told)
    log.info("%d trials trained to the end, %d pruned, %d failed, %d lost: %s", n["trained"], n["pruned"], n["failed"], n["lost"], folder / "sweep.html")
    if best:
        path = write_experiment(of, recipe, folder, best, n, sweep_choice)
        log.info(
            "The best of %d: trial %d, %s %.4f. As the best of many on the same validation films it is optimistic. Its recipe: %s. How good it really is:"
            " python train.py resume=%s look_at_test=true",
            n["trained"] + n["pruned"],
            best["number"],
            METRIC,
            best["value"],
            path,
            folder / str(best["number"]),
        )


def write_experiment(of: Sweep, recipe: Recipe, folder: Path, best: Mapping[str, Any], n: Mapping[str, int], sweep_choice: str) -> Path:
    """The best trial as <study>_best.yaml: what it differs in from its experiment, or from the defaults, alone."""
    plain = compose(recipe.command(best["drawn"]))
    choices = {group: best["drawn"].get(group, choice) for group, choice in recipe.choices.items()}
    experiment = choices.pop("experiment", None)
    usual = _choices([f"experiment={experiment}"] if experiment else [])
    groups = {group: choice for group, choice in sorted(choices.items()) if usual.get(group) != choice}
    base = compose([*([f"experiment={experiment}"] if experiment else []), *(f"{group}={choice}" for group, choice in groups.items())])
    counting = settings(plain)
    deltas = {name: value for name, value in _difference(plain, base).items() if name in counting}
    nested = dict[str, Any]()
    for name, value in deltas.items():
        group, _, key = name.partition(".")
        nested |= {group: nested.get(group, {}) | {key: value}} if key else {group: value}

    data, is_mini = plain["data"], plain["data"]["name"] == "mini"
    elsewhere = "" if is_mini else " data.root=/path/to/cxr14"
    if bool(data["expert_labels"]) != is_mini:
        elsewhere += " data.expert_labels=null" if is_mini else " data.expert_labels=/path/to/labels"
    at = folder.relative_to(PROJECT) if folder.is_relative_to(PROJECT) else "<the study's folder>"
    head = f"""\
# @package _global_
# The best of {n["trained"] + n["pruned"]} trials of the sweep {of.study} ({n["trained"]} trained to the end, {n["pruned"]} pruned): trial {best["number"]}.
#
#   python train.py experiment={of.study}_best{elsewhere}
#
# Expect   val/auroc_macro {best["value"]:.4f} with this seed, and less with another or on other films: it was chosen for this number
# Made by  python scripts/sweep.py sweep={sweep_choice}
# Its run  python train.py resume={at}/{best["number"]} look_at_test=true
"""
    defaults = [*([experiment] if experiment else []), "_self_", *(f"override /{group}: {choice}" for group, choice in groups.items())]
    parts = ["defaults:\n" + "".join(f"  - {line}\n" for line in defaults)] if len(defaults) > 1 else []
    parts += [yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)] if nested else []
    path = Path(of.experiments) / f"{of.study}_best.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (head + "\n".join(parts)).encode())
    return path


def _choices(arguments: list[str]) -> dict[str, str]:
    from hydra import compose as hydra_compose

    chosen: dict[str, str] = dict(hydra_compose("train", arguments, return_hydra_config=True).hydra.runtime.choices)
    return chosen
