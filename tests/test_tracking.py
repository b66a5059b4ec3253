"""Mirrors tracking.py. An offline run is read back with wandb's own reader."""

import csv
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from cxr import tracking
from cxr.tracking import TrackingError, announce, decide_mode

NOWHERE = tracking.Place("p", entity=None, group="g", name="n", job_type="train", tags=[], mode="disabled")


def records(folder: Path) -> list:
    """Every record of the one offline run below a run folder."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    store, found = DataStore(), []
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def updates(found: list, kind: str) -> dict:
    """What the records of one kind say in the end, nested keys joined by a slash."""
    values = {}
    for record in found:
        if record.WhichOneof("record_type") == kind:
            for item in getattr(record, kind).update:
                values["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return values


def test_an_offline_run_reads_back_with_its_config_and_its_summary_with_intervals(finished_run: Path) -> None:
    found = records(finished_run)
    run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["optim"]["lr"] == 3e-3
    assert config["data"]["name"] == "mini"
    assert (run.project, run.run_group, run.job_type) == ("cxr", "demo", "train")
    assert {"mini", "test_resnet"} <= set(run.tags)

    summary = updates(found, "summary")
    logged = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for record in found for item in record.history.item}
    report = json.loads((finished_run / "report/report.json").read_text())
    for name in ("nih_test", "all_findings_test", "four_findings_test", "four_findings_validation"):
        part = report["reference_sets"][name]
        estimates = {finding: row["auroc"] for finding, row in part["findings"].items() if row["auroc"]}
        assert f"test/{name}/auroc/Fracture" not in summary
        for key, estimate in {**{f"auroc/{f}": e for f, e in estimates.items()}, "auroc_macro": part["macro"]["auroc"]}.items():
            for suffix, end in (("", "value"), ("_lo", "lo"), ("_hi", "hi")):
                assert summary[f"test/{name}/{key}{suffix}"] == pytest.approx(estimate[end], abs=1e-12)
        assert logged[f"test/{name}/findings/_type"] == "table-file"
        assert logged[f"test/{name}/findings/nrows"] == len(part["findings"])
        readers = part.get("readers", {"n_reads": {}})["n_reads"]
        assert logged.get(f"test/{name}/readers/nrows", 0) == len(readers) * len(part["findings"])
        n_lines = len(report["reference_sets"][name]["findings"])
        for kind in ("roc", "precision_recall"):
            assert 0 < logged[f"Custom Chart Tables/charts/{name}/{kind}_table/nrows"] <= 150 * n_lines
    assert logged["figures/auroc/_type"] == "image-file"
    assert logged["report/_type"] == "html-file"
    assert [record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit"] == [0]


def test_the_validation_of_the_epoch_that_was_kept_stands_in_the_summary(finished_run: Path) -> None:
    found = records(finished_run)
    summary = updates(found, "summary")
    with (finished_run / "metrics.csv").open(newline="") as file:
        best = max((row for row in csv.DictReader(file) if row["val/auroc_macro"]), key=lambda row: float(row["val/auroc_macro"]))
    for metric in ("loss", "auroc_macro", "auroc/Effusion", "auroc/Hernia"):
        assert summary[f"best/{metric}"] == float(best[f"val/{metric}"])
    assert summary["best/epoch"] == float(best["epoch"])
    assert summary["val/auroc_macro"]["max"] == pytest.approx(float(best["val/auroc_macro"]))
    (kept,) = [record.metric for record in found if record.WhichOneof("record_type") == "metric" and record.metric.name == "val/auroc_macro"]
    assert kept.summary.max


def test_runs_are_told_apart_by_their_recipe_alone(finished_run: Path) -> None:
    run = next(record.run for record in records(finished_run) if record.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert "logger" not in config
    assert {"root", "store_dir"}.isdisjoint(config["data"])
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", config["commit"])


# in a process of its own: W&B writes the last of its records when the process ends
SEND_WEIGHTS = """
import sys
from pathlib import Path
from cxr import tracking
folder = Path(sys.argv[1])
place = tracking.Place("p", entity=None, group="g", name="n", job_type="train", tags=[], mode="offline")
loggers = tracking.make_loggers(folder, place, first_process=True, config={}, run_id="abc12345")
tracking.log_checkpoint(loggers, folder / "model.safetensors", {"seed": 3})
tracking.log_gallery(loggers, folder / "gallery.html")
tracking.finish(loggers, 75)
"""


def test_weights_are_sent_as_an_artifact_where_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    subprocess.run([sys.executable, "-c", SEND_WEIGHTS, str(tmp_path)], check=True, timeout=120)
    found = records(tmp_path)
    (sent,) = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact" and record.artifact.type == "model"]
    assert sent.name == "model-abc12345"
    assert json.loads(sent.metadata) == {"seed": 3}
    assert [item.path for item in sent.manifest.contents] == ["model.safetensors"]
    assert list((tmp_path / "wandb").rglob("*.html")) == []  # there was no gallery
    assert [record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit"] == [75]


def test_the_page_of_films_is_sent_where_asked_for_and_there(tmp_path: Path) -> None:
    for name in ("model.safetensors", "gallery.html"):
        (tmp_path / name).write_bytes(b"<p>films</p>")
    subprocess.run([sys.executable, "-c", SEND_WEIGHTS, str(tmp_path)], check=True, timeout=120)
    (page,) = (tmp_path / "wandb").rglob("media/html/gallery_*.html")
    assert b"<p>films</p>" in page.read_bytes()


def test_metrics_come_per_epoch_and_per_finding(finished_run: Path) -> None:
    keys = {item.key or "/".join(item.nested_key) for record in records(finished_run) for item in record.history.item}
    assert {"train/loss", "train/lr", "val/loss", "val/auroc_macro", "val/auroc/Effusion", "epoch"} <= keys


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any W&B setting."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_auto_is_online_with_a_key_and_offline_without(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide_mode("auto") == "offline"
    nowhere.write_text("machine example.org\n  login me\n  password x\n")
    assert decide_mode("auto") == "offline"
    nowhere.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert decide_mode("auto") == "online"
    nowhere.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert decide_mode("auto") == "online"


def test_the_environment_wins(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert decide_mode("online") == "disabled"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(TrackingError, match="WANDB_MODE=sometimes"):
        decide_mode("auto")


def test_online_without_a_key_is_refused_at_once_with_the_way_out(nowhere: Path) -> None:
    with pytest.raises(TrackingError, match=r"wandb login.*logger\.mode=offline"):
        decide_mode("online")


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_one_line_says_where_the_run_is_logged(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        announce(mode)
    (message,) = caplog.messages
    assert mode in message
    assert "\n" not in message


def test_a_disabled_run_writes_metrics_and_starts_no_wandb(tmp_path: Path) -> None:
    loggers = tracking.make_loggers(tmp_path, NOWHERE, first_process=True, config={}, run_id="r")
    assert [type(logger).__name__ for logger in loggers] == ["MetricsFile"]
    tracking.log_report(loggers, {"reference_sets": {}}, tmp_path, {}, {})
    tracking.finish(loggers, 0)
    assert not (tmp_path / "wandb").exists()


def test_metrics_go_on_from_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    def logger(first_step: int):
        (made,) = tracking.make_loggers(tmp_path, NOWHERE, first_process=True, config={}, run_id="r", first_step=first_step)
        return made

    def rows() -> list[dict[str, str]]:
        with (tmp_path / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    first = logger(0)
    for step in range(6):
        first.log_metrics({"epoch": 0, "loss": step / 10}, step)
    first.log_metrics({"epoch": 0, "auroc": 0.5}, 5)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.6,0")  # torn by a kill
    second = logger(4)
    assert [(row["step"], row["loss"]) for row in rows()] == [("0", "0.0"), ("1", "0.1"), ("2", "0.2"), ("3", "0.3")]
    second.log_metrics({"epoch": 0, "loss": 0.4}, 4)
    second.log_metrics({"epoch": 0, "loss": 0.5, "new": 1}, 5)
    assert [row["step"] for row in rows()] == ["0", "1", "2", "3", "4", "5"]
    assert rows()[-1]["new"] == "1"
    assert logger(0)
    assert rows() == []


class Broken:
    """A W&B run whose own process has died."""

    id = "broken"

    @property
    def step(self) -> int:
        raise ConnectionResetError("Connection lost")

    def log(self, *_: object, **__: object) -> None:
        raise ConnectionResetError("Connection reset by peer")

    def finish(self, **_: object) -> None:
        raise BrokenPipeError("gone")


class Sound:
    """A W&B run that keeps what it is told."""

    id, step = "sound", 0

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, float], int]] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.told.append((metrics, step))

    def finish(self, exit_code: int) -> None:
        self.told.append(({"exit": exit_code}, -1))


ROWS = [{"step": "0", "train/loss": "0.5", "val/loss": ""}, {"step": "0", "train/loss": "", "val/loss": "0.4"}]


def test_a_wandb_that_dies_is_told_everything_anew(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    begun = Sound()
    curves = tracking._wandb_curves(Sound(), lambda: [], begin_offline=lambda: begun, folder=tmp_path)
    curves.experiment = Broken()  # its process is killed
    curves.log_metrics({"train/loss": 0.25}, 1)
    assert curves.experiment is begun
    tracking.finish([curves], 0)
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("cxr.")]  # W&B's own words too, in a process that began a run
    assert f"wandb sync {tmp_path}/latest-run" in told
    assert begun.told == [({"train/loss": 0.25}, 1), ({"exit": 0}, -1)]

    begun = Sound()
    curves = tracking._wandb_curves(Broken(), lambda: ROWS, begin_offline=lambda: begun, folder=tmp_path)  # dies at once
    assert begun.told[:2] == [({"train/loss": 0.5}, 0), ({"val/loss": 0.4}, 1)]


def test_a_wandb_that_does_not_come_back_costs_no_training(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def refuse() -> object:
        raise OSError("no process can be started")

    for again in (Broken, refuse):
        caplog.clear()
        curves = tracking._wandb_curves(Broken(), lambda: [], begin_offline=again, folder=tmp_path)
        for step in range(3):
            curves.log_metrics({"train/loss": 0.25}, step)
        tracking.log_report([curves], {"reference_sets": {}}, tmp_path, {}, {})
        tracking.finish([curves], 0)
        assert len(caplog.messages) == 2
        assert "gets no more of this run" in caplog.messages[1]
