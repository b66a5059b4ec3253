"""Mirrors run/: the decisions that are made between the rooms."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hydra.types import RunMode

from cxr.cohort.findings import NIH_FINDINGS
from cxr.config import BCE, AdamW, Config, Data, LoggerMode, Model, Trainer
from cxr.resume import config_sha256
from cxr.run import RunError, provenance, study, training


def config(**data) -> Config:
    return Config(data=Data(name="mini", root="/data", **data), model=Model(name="test_resnet"), loss=BCE(), optim=AdamW())


def test_a_finding_without_both_classes_in_validation_is_left_out_by_name() -> None:
    targets = np.tile([[0.0], [1.0], [np.nan]], (2, 14)).astype(np.float32)
    targets[:, 3], targets[:, 13] = 0, np.nan
    targets[targets[:, 5] == 0, 5] = np.nan
    monitored, left_out = training.monitored_findings(targets)
    assert left_out == ["Infiltration", "Nodule", "Hernia"]
    assert monitored == [finding for finding in NIH_FINDINGS if finding not in left_out]


def test_a_validation_set_that_could_choose_nothing_is_refused() -> None:
    with pytest.raises(RunError, match=r"6 validation films hold both classes of 0 findings only: raise data\.validation"):
        training.monitored_findings(np.zeros((6, 14), np.float32))


def sha256(changed: Config) -> str:
    return config_sha256(provenance.plain_config(changed))


def test_the_config_hash_ignores_what_cannot_change_a_number() -> None:
    base = sha256(config())
    harmless = config(num_workers=7, store_dir="/fast", expert_labels="/labels")
    harmless.data.root = "/elsewhere"
    harmless.trainer = Trainer(devices=4, strategy="ddp", accelerator="gpu")
    harmless.logger.mode = LoggerMode.disabled
    harmless.logger.tags = ["a"]
    harmless.mapping.method, harmless.report.draws, harmless.operating.rule = "noisy_or", 500, "youden"  # hashed in the evaluation protocol
    assert sha256(harmless) == base


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c, "seed", 1),
        lambda c: setattr(c.optim, "lr", 1.0),
        lambda c: setattr(c.data, "batch_size", 1),
        lambda c: setattr(c.trainer, "precision", "bf16-mixed"),
        lambda c: setattr(c.augment, "scale", 0.5),
        lambda c: setattr(c.data, "validation", 0.2),
    ],
)
def test_the_config_hash_notices_what_can(change) -> None:
    changed = config()
    change(changed)
    assert sha256(changed) != sha256(config())


def test_a_file_counts_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    hashes = []
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(content)
        hashes.append(sha256(config(validation=str(tmp_path / name))))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_store_may_travel_without_its_films(mini: Path, tmp_path: Path) -> None:
    data = Data(name="mini", root=str(mini), store_dir=str(tmp_path), image_size=28)
    made = study.prepare_store(data, study.load_catalogue_of(data))
    tables = tmp_path / "tables"
    tables.mkdir()
    for path in mini.iterdir():
        if path.is_file():
            (tables / path.name).symlink_to(path)
    alone = Data(name="cxr14", root=str(tables), store_dir=str(tmp_path), image_size=28)
    (tmp_path / "mini_32").rename(tmp_path / "cxr14_32")
    catalogue = study.load_catalogue_of(alone)
    travelled = study.prepare_store(alone, catalogue)
    np.testing.assert_array_equal(travelled.image_ids, made.image_ids)

    with pytest.raises(RunError, match=r"no image was found in .*tables.* and no image store at"):
        study.prepare_store(Data(name="cxr14", root=str(tables), store_dir=str(tmp_path / "empty"), image_size=28), catalogue)


@pytest.mark.parametrize(
    ("accelerator", "devices", "refused"),
    [("gpu", 1, False), ("gpu", "2", True), ("gpu", "0,3", True), ("gpu", "3,", False), ("gpu", "auto", True), ("auto", "-1", True), ("cpu", "auto", False)],
)
def test_a_multirun_is_refused_where_its_jobs_would_take_several_devices(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: int | str, refused: bool
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    trainer = Trainer(accelerator=accelerator, devices=devices)
    training._refuse_sweep_of_processes(trainer, RunMode.RUN)
    with pytest.raises(RunError, match="multirun") if refused else nullcontext():
        training._refuse_sweep_of_processes(trainer, RunMode.MULTIRUN)
