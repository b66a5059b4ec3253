"""Mirrors run/sweeping.py: the real command; a worker is killed, a trial pruned, and a trap lies before the test films."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
import pytest
import yaml
from commands import call
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cxr.config import PROJECT, Sweep
from cxr.resume import config_sha256
from cxr.run import RunError, sweeping
from cxr.run.sweeping import open_study, read_epochs, read_space
from cxr.trials.processes import Process, descendants, kill, look_at

pytestmark = [pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"), pytest.mark.filterwarnings("ignore:Heartbeat of storage")]

SPACE = ("optim.lr=choice(3e-3, 1e-9)", "loss=choice(bce, focal)", "trainer.max_epochs=range(2, 61)")

# put before every process of the study: a row of a test film that is read ends it, and so does whatever evaluates
TRAP = """
import importlib.machinery, os, sys

class Trap:
    def find_spec(self, name, path=None, target=None):
        if name == "cxr.report.evaluate":
            raise RuntimeError("TRAP: something is evaluated")
        if name != "cxr.data.dataset":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            forbidden, fill = set(open(os.environ["CXR_TEST_LIST"]).read().split()), module.FilmDataset._fill
            def guarded(self, films, indices, epoch):
                if forbidden.intersection(self.store.image_ids[self.rows[indices]].tolist()):
                    raise RuntimeError("TRAP: a test film is opened")
                return fill(self, films, indices, epoch)
            module.FilmDataset._fill = guarded
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Trap())
"""


class Study(NamedTuple):
    """What two workers left, one of whom was killed."""

    folder: Path
    experiments: Path
    command: list[str]
    environment: dict[str, str]
    last_words: str
    training_of_the_dead: Process
    rows: list[dict[str, str]]


def worker(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, *command], env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, *processes: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < deadline, path
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def study(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Trial 0 is lost with its worker, 1 is trained to the end, 2 is pruned; the order is fixed by Optuna's own queue."""
    base = tmp_path_factory.mktemp("sweep")
    folder, trap = base / "tiny", base / "trap"
    folder.mkdir()
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(TRAP)
    queue = optuna.create_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))), direction="maximize")
    for rate, loss, epochs in (("0.003", "bce", 60), ("0.003", "focal", 2), ("1e-09", "bce", 60)):
        queue.enqueue_trial({"optim.lr": rate, "loss": loss, "trainer.max_epochs": epochs})

    places = [f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}", f"sweep.experiments={base / 'more/experiment'}"]
    tiny = ["data.image_size=32", "data.batch_size=64", "data.num_workers=0", "logger.mode=disabled", "data.expert_labels=null", "report.draws=100"]
    space = f"sweep.space=[{','.join(json.dumps(text) for text in SPACE)}]"
    pruning = ["sweep.prune_after_trials=1", "sweep.prune_after_epochs=1"]
    command = [str(PROJECT / "scripts/sweep.py"), "sweep=lr_loss", "sweep.study=tiny", "sweep.trials=2", space, *pruning, *places, *tiny]
    environment = {"PYTHONPATH": os.pathsep.join([str(trap), os.environ.get("PYTHONPATH", "")]), "CXR_TEST_LIST": str(mini / "test_list.txt")}
    doomed = worker(command, environment)
    wait_for(folder / "0/checkpoints/resume.ckpt", doomed)
    (training,) = [child for child in descendants(doomed.pid) if child.parent == doomed.pid]
    other = worker(command, environment)
    try:
        wait_for(folder / "1/run.json", doomed, other)
        victim = look_at(doomed.pid)
        assert victim is not None
        assert kill(victim)
        doomed.communicate()
        told, _ = other.communicate(timeout=280)
        assert other.returncode == 0, told
    finally:
        doomed.kill()
        other.kill()
    with (folder / "trials.csv").open(newline="") as file:
        return Study(folder, base / "more", command, environment, told, training, list(csv.DictReader(file)))


def test_the_study_ends_whole_although_a_worker_was_killed_and_its_training_ended_with_it(study: Study) -> None:
    assert [(row["number"], row["state"]) for row in study.rows] == [("0", "lost"), ("1", "trained"), ("2", "pruned")]
    assert look_at(study.training_of_the_dead.pid) != study.training_of_the_dead
    assert "Trial 0 is lost" in study.last_words
    states = [
        trial.state.name for trial in optuna.load_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(study.folder / "journal.log")))).trials
    ]
    assert states == ["FAIL", "COMPLETE", "PRUNED"]


def test_the_value_is_the_best_epochs_validation_auroc_and_a_pruned_trial_ended_early_with_a_checkpoint(study: Study) -> None:
    for row in study.rows[1:]:
        logged = pd.read_csv(study.folder / row["folder"] / "metrics.csv")["val/auroc_macro"].dropna()
        assert float(row["value"]) == pytest.approx(logged.max(), abs=1e-12)
        assert int(row["epochs"]) == len(logged)
    assert (study.rows[1]["epochs"], study.rows[2]["trainer.max_epochs"]) == ("2", "60")
    assert int(study.rows[2]["epochs"]) < 30
    assert "stopped by SIGTERM after step" in (study.folder / "2/console.txt").read_text()
    assert (study.folder / "2/checkpoints/resume.ckpt").is_file()


def test_a_trial_is_a_run_folder_of_the_studys_group_without_a_look_at_the_test_set(study: Study) -> None:
    for name in ("1", "2"):
        config = yaml.safe_load((study.folder / name / "config.yaml").read_text())
        assert (config["logger"]["group"], config["look_at_test"]) == ("tiny", False)
        assert not (study.folder / name / "report").exists()
        assert not (study.folder / name / "predictions.parquet").exists()
        assert "TRAP" not in (study.folder / name / "console.txt").read_text()
    assert (study.folder / "1/model.safetensors").is_file()


def test_the_trap_before_the_test_films_bites(study: Study, mini: Path) -> None:
    code = """
import sys
import numpy as np
from pathlib import Path
from cxr.data.dataset import FilmDataset
from cxr.data.store import open_store
store = open_store(Path(sys.argv[1]))
is_test = np.isin(store.image_ids, open(sys.argv[2]).read().split())
for rows in np.flatnonzero(~is_test)[:2], np.flatnonzero(is_test)[:2]:
    try:
        print(FilmDataset(store, rows, np.zeros((2, 14), np.float32), image_size=32).batch(np.arange(2))["image"].shape)
    except RuntimeError as error:
        print(error)
try:
    import cxr.report.evaluate
except RuntimeError as error:
    print(error)
"""
    arguments = [str(mini.parent / "stores/mini_37"), str(mini / "test_list.txt")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | study.environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["torch.Size([2, 1, 37, 37])", "TRAP: a test film is opened", "TRAP: something is evaluated"], done.stderr


def test_the_best_is_an_experiment_file_of_deltas_that_composes_to_the_trials_own_configuration(study: Study) -> None:
    path = study.experiments / "experiment/tiny_best.yaml"
    text, content = path.read_text(), yaml.safe_load(path.read_text())
    assert "python train.py experiment=tiny_best data.expert_labels=null\n" in text
    assert f"val/auroc_macro {float(study.rows[1]['value']):.4f}" in text
    assert content["defaults"] == ["demo", "_self_", {"override /loss": "focal"}]
    assert "lr" not in content.get("optim", {})  # the demo's own
    assert "root" not in content["data"]
    done = call("train.py", f"--config-dir={study.experiments}", "experiment=tiny_best", "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    trial = yaml.safe_load((study.folder / "1/config.yaml").read_text())
    assert config_sha256({k: v for k, v in yaml.safe_load(done.stdout).items() if k != "resume"}) == config_sha256(trial)


def test_the_page_the_picture_and_the_log_say_what_came_of_it_and_that_it_is_optimistic(study: Study) -> None:
    for name in ("sweep.png", "sweep.html", "sweep.md"):
        assert (study.folder / name).stat().st_size > 0
    assert "The best of 2: trial 1" in study.last_words
    assert "optimistic" in study.last_words
    assert f"resume={study.folder / '1'} look_at_test=true" in study.last_words
    assert "some of its lead is luck" in (study.folder / "sweep.md").read_text()


def test_the_same_study_with_something_else_searched_or_fixed_is_refused_by_name(study: Study) -> None:
    before = (study.folder / "trials.csv").read_bytes()
    changed = [argument.replace("1e-9", "1e-8") for argument in study.command[1:]]
    done = call("scripts/sweep.py", *changed, "seed=4", "data.num_workers=1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    for told in ("optim.lr=choice(3e-3, 1e-9), now optim.lr=choice(3e-3, 1e-8)", "seed: 0, now 4", "sweep.study="):
        assert told in done.stderr
    assert "num_workers" not in done.stderr  # which changes no number
    assert (study.folder / "trials.csv").read_bytes() == before
    assert not (study.folder / "3").exists()


def test_the_best_trial_becomes_a_full_run(study: Study) -> None:
    weights = (study.folder / "1/model.safetensors").read_bytes()
    done = call("train.py", f"resume={study.folder / '1'}", "look_at_test=true")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((study.folder / "1/report/report.json").read_text())
    assert report["protocol"]["selection"]["value"] == pytest.approx(float(study.rows[1]["value"]), abs=1e-7)
    assert report["reference_sets"]["nih_test"]["n_images"] == 464
    assert (study.folder / "1/model.safetensors").read_bytes() == weights


def test_three_failures_in_a_row_end_a_worker_with_the_trainings_own_words(tmp_path: Path) -> None:
    done = call(
        "scripts/sweep.py", "sweep=lr_loss", "data=cxr14", f"data.root={tmp_path / 'nowhere'}", f"hydra.run.dir={tmp_path / 'study'}", "data.labels=null"
    )
    assert done.returncode == 1
    assert "3 trials in a row failed" in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr
    with (tmp_path / "study/trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["failed"] * 3
    assert all("(status 1)" in row["reason"] for row in rows)
    assert len({row["optim.lr"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweep.space=['optim.lrr=interval(0,1)']"], ["optim.lrr", "did you mean lr?"]),
        (["sweep.space=['model.drop_rate=interval(0,3)']"], ["model.drop_rate=3.0", "between 0 and 0.99"]),
        (["optim.lr=0.1"], ["optim.lr is both fixed", "searched"]),
        (["resume=auto"], ["resume", "sweep.study"]),
    ],
    ids=["unknown key", "out of range", "fixed and searched", "resume"],
)
def test_a_mistake_is_one_line_before_a_trial_begins(arguments: list[str], told: list[str], tmp_path: Path) -> None:
    done = call("scripts/sweep.py", "sweep=lr_loss", *arguments, f"hydra.run.dir={tmp_path}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert all(part in done.stderr for part in told), done.stderr
    assert not (tmp_path / "journal.log").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optim.lr=0.1", "a single value is not searched"),
        ("optim.lr=tag(log, interval(0, 1))", "sweep.space: optim.lr=tag"),
        ("optim.lr=interval(1, 0)", "sweep.space: optim.lr=interval"),
        ("optim.lr=tag(often, interval(0, 1))", "the tag often means nothing here"),
        ("+optim.lr=interval(0, 1)", "one key or group"),
        ("sweep.trials=range(1, 5)", "one key or group"),
        ("optim.lr=interval(", "sweep.space: optim.lr=interval("),
        ("trainer.max_epochs=range(5, 5)", "the range is empty"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_with_the_line(text: str, told: str) -> None:
    with pytest.raises(RunError) as caught:
        read_space([text])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    assert read_epochs(metrics) == {}
    metrics.write_text("epoch,step,train/loss,val/auroc_macro\n0,9,0.5,\n0,9,,0.625\n1,19,,0.7")
    assert read_epochs(metrics) == {0: 0.625}


def opened(tmp_path: Path, **keys: Any) -> tuple[Sweep, optuna.Study]:
    of = Sweep(study="s", space=["optim.lr=interval(0, 1)"], **keys)
    return of, open_study(of, tmp_path, {"space": of.space, "fixed": {"seed": 0}})


def test_a_journal_whose_writer_was_killed_within_a_line_is_read_and_written_on(tmp_path: Path) -> None:
    _, study = opened(tmp_path)
    study.ask()
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id"')
    _, again = opened(tmp_path)
    again.ask()
    assert len(opened(tmp_path)[1].trials) == 2


def test_workers_draw_different_trials_although_the_sampler_has_one_seed(tmp_path: Path) -> None:
    of, one = opened(tmp_path)
    recipe = sweeping.Recipe({}, {}, read_space(of.space), {})
    _, other = opened(tmp_path)
    taken = [sweeping._take_trial(study, of, recipe, tmp_path) for study in (one, other, one)]
    assert [one.trial.number for one in taken] == [0, 1, 2]
    assert len({one.drawn["optim.lr"] for one in taken}) == 3


def test_a_worker_of_a_database_is_dead_when_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "HEARTBEAT_S", 1)
    monkeypatch.setattr(sweeping, "SILENCE_S", 2)
    of, study = opened(tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    recipe = sweeping.Recipe({}, {}, read_space(of.space), {})
    silent, alive = (sweeping._take_trial(study, of, recipe, tmp_path) for _ in range(2))
    deadline = time.monotonic() + 30
    while study.trials[silent.trial.number].state.name == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.3)
        sweeping._beat(study, of, alive.trial)
        sweeping._give_up_the_lost(study, of, tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING"]


def test_a_storage_that_cannot_be_opened_is_one_line_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"sweep\.storage: the study cannot be opened") as caught:
        opened(tmp_path, storage="nosuch://user:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_worker_that_is_told_to_stop_ends_with_status_75_and_its_trial_as_failed(mini: Path, tmp_path: Path) -> None:
    process = worker([str(PROJECT / "scripts/sweep.py"), "sweep=lr_loss", f"data.root={mini}", f"hydra.run.dir={tmp_path}", "logger.mode=disabled"], {})
    try:
        wait_for(tmp_path / "0/console.txt", process)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75, told
    assert "stopped by SIGTERM; the study goes on with the same command" in told
    with (tmp_path / "trials.csv").open(newline="") as file:
        assert [(row["state"], row["reason"]) for row in csv.DictReader(file)] == [("failed", "stopped by SIGTERM")]
