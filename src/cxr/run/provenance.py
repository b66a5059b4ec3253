"""What made the numbers: configuration, code, time."""

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cxr.config import PROJECT, Config, Data, Logger, LoggerMode
from cxr.resume import file_sha256
from cxr.tracking import Place


def plain_config(config: Config) -> dict[str, Any]:
    """The whole configuration as plain values, paths made absolute where they name something on this machine."""
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)  # type: ignore[assignment]
    del plain["resume"]
    for key in ("root", "labels", "store_dir", "expert_labels"):
        if plain["data"][key]:
            plain["data"][key] = str(Path(plain["data"][key]).absolute())
    for source in plain["data"]["sources"].values():
        source["root"] = source["root"] and str(Path(source["root"]).absolute())
    for group, key in (("data", "validation"), ("model", "weights")):
        if isinstance(plain[group][key], str) and Path(plain[group][key]).is_file():
            plain[group][key] = str(Path(plain[group][key]).absolute())
    return plain


def place_in_wandb(logger: Logger, *, mode: str, group: str, name: str, tags: Sequence[str]) -> Place:
    """Of a run.

    Args:
        logger: the configuration.
        mode: from `tracking.decide_mode`.
        group: where none is configured.
        name: of the run.
        tags: beside the configured ones.
    """
    return Place(
        project=logger.project,
        entity=logger.entity,
        group=logger.group or group,
        name=name,
        job_type=logger.job_type,
        tags=[*logger.tags, *tags],
        mode=mode,
        may_be_offline=logger.mode is LoggerMode.auto and not os.environ.get("WANDB_MODE"),
        wait_seconds=logger.wait_seconds,
        describe_machine=logger.describe_machine,
    )


def validation_in_words(data: Data) -> str:
    if isinstance(data.validation, str):
        return f"list {Path(data.validation).name}, sha256 {file_sha256(Path(data.validation))}"
    return f"{data.validation:g} of the train_val patients, split seed {data.split_seed}"


def git_commit() -> str | None:
    """The commit of this checkout, "-dirty" if it was changed since; None outside of one."""
    try:
        told = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
