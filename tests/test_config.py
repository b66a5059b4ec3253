"""Mirrors config.py: a mistake is one line that names the key and the near name, wherever it was written."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import call

from cxr import config as module
from cxr.config import CONFIGS, PROJECT, Config, ConfigError, Data, check_values, help_text, store_size


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line of a refused command."""
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "no such key in Trainer", "did you mean max_epochs?"]),
        (["+trainer.max_epoch=3"], ["trainer.max_epoch", "no such key in Trainer", "did you mean max_epochs?"]),
        (["++trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean max_epochs?"]),
        (["+sed=1"], ["sed", "no such key in Config", "did you mean seed?"]),
        (["trainer.max_epochs=many"], ["trainer.max_epochs", "many"]),
        (["data.missing_images=perhaps"], ["data.missing_images", "perhaps", "error", "allow"]),
        (["loss.gamma=3"], ["loss.gamma", "no such key in BCE"]),
        (["loss=focal", "loss.gama=3"], ["loss.gama", "no such key in Focal", "did you mean gamma?"]),
        (["loss.name=focal"], ["loss.name=focal", "loss=focal"]),
        (["model=densenet"], ["model=densenet", "did you mean densenet121?"]),
        (["experiment=densnet_cxr14"], ["experiment=densnet_cxr14", "did you mean densenet_cxr14?"]),
        (["trainer.precision=bf16"], ["trainer.precision=bf16", "bf16-mixed"]),
        (["data.batch_size=0"], ["data.batch_size=0", "between 1"]),
        (["data.validation=1.5"], ["data.validation=1.5", "fraction"]),
        (["data.image_size=big"], ["data.image_size", "big"]),
        (["modle=tiny"], ["modle", "did you mean model?"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: list[str], told: list[str], tmp_path: Path) -> None:
    line = one_line(call("train.py", *arguments, f"hydra.run.dir={tmp_path}"))
    assert all(part in line for part in told), line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("trainer:\n  max_epoch: 3\n", ["trainer.max_epoch", "did you mean max_epochs?", "experiment/typo"]),
        ("trainr:\n  max_epochs: 3\n", ["trainr", "did you mean trainer?", "experiment/typo"]),
        ("trainer:\n  max_epochs: many\n", ["trainer.max_epochs", "many", "experiment/typo"]),
        ("defaults:\n  - override /model: densenet\n", ["model=densenet", "did you mean densenet121?"]),
    ],
    ids=["unknown key", "unknown group", "wrong type", "unknown option"],
)
def test_a_mistake_inside_an_experiment_file_is_one_line(content: str, told: list[str], tmp_path: Path) -> None:
    for name in ("train.py", "configs", "src"):
        (shutil.copytree if (PROJECT / name).is_dir() else shutil.copy)(PROJECT / name, tmp_path / name)
    (tmp_path / "configs/experiment/typo.yaml").write_text(f"# @package _global_\n{content}")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py"), "experiment=typo", f"hydra.run.dir={tmp_path / 'run'}"],
        env={"PYTHONPATH": str(tmp_path / "src"), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    line = one_line(done)
    assert all(part in line for part in told), line


def test_help_explains_every_key_and_is_quick() -> None:
    start = time.monotonic()
    done = call("train.py", "--help", seconds=20)
    assert time.monotonic() - start < 10  # a hang, not a benchmark
    assert done.returncode == 0
    for group, kind in (("data", Data), ("model", module.Model), ("optim", module.AdamW), ("trainer", module.Trainer), ("loss", module.Focal)):
        for name, item in kind.__dataclass_fields__.items():
            assert f"{group}.{name}=" in done.stdout
            assert len(item.metadata["help"]) > 5 or name == "name"
    for experiment in ("densenet_cxr14", "convnext_cxr14_512", "vit_cxr14", "demo", "real_sample"):
        assert experiment in done.stdout
    loaded = subprocess.run([sys.executable, "-X", "importtime", str(PROJECT / "train.py"), "--help"], capture_output=True, text=True).stderr
    assert not any(f" {library}" in loaded for library in ("torch", "pandas", "hydra"))


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")))
def test_every_experiment_composes_to_values_that_make_sense_and_opens_with_its_command(experiment: str) -> None:
    done = call("train.py", f"experiment={experiment}", "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    assert f"python train.py experiment={experiment}" in (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()


@pytest.mark.parametrize(("arguments", "name"), [([], "train"), (["experiment=demo"], "demo")])
def test_a_run_folder_lies_under_outputs_by_experiment_and_time(arguments: list[str], name: str) -> None:
    done = call("train.py", *arguments, "--cfg", "hydra", "-p", "hydra.run", "--resolve")
    assert re.search(rf"dir: {PROJECT}/outputs/{name}/\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{{6}}\n", done.stdout), done.stdout


@pytest.mark.parametrize("group", ["data", "model", "augment", "trainer"])
def test_every_option_composes(group: str) -> None:
    for option in (CONFIGS / group).glob("*.yaml"):
        done = call("train.py", f"{group}={option.stem}", "--cfg", "job")
        assert done.returncode == 0, done.stderr


def test_films_are_stored_a_little_larger_than_they_are_used() -> None:
    assert store_size(Data(name="mini", root="", image_size=224)) == 256
    assert store_size(Data(name="mini", root="", image_size=224, store_size=240)) == 240


def test_a_default_outside_its_own_range_cannot_be_shipped() -> None:
    check_values(Config(data=Data(name="mini", root=""), loss=module.BCE(), optim=module.AdamW()))
    with pytest.raises(ConfigError, match="seed=-1: it must lie between"):
        check_values(Config(data=Data(name="mini", root=""), loss=module.BCE(), optim=module.AdamW(), seed=-1))
    with pytest.raises(ConfigError, match=r"logger\.gallery=true sends a page that report\.gallery=true makes"):
        check_values(Config(data=Data(name="mini", root=""), loss=module.BCE(), optim=module.AdamW(), logger=module.Logger(gallery=True)))


def test_help_of_another_entry_shows_its_own_keys_only() -> None:
    text = help_text("", module.EvaluateConfig)
    assert "run=required" in text
    assert "trainer." not in text
