"""What made the numbers: configuration, code, time."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cxr.config import PROJECT, Config, Data
from cxr.resume import file_sha256


def plain_config(config: Config) -> dict[str, Any]:
    """The whole configuration as plain values, paths made absolute where they name something on this machine."""
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)  # type: ignore[assignment]
    del plain["resume"]
    for key in ("root", "labels", "store_dir", "expert_labels"):
        if plain["data"][key]:
            plain["data"][key] = str(Path(plain["data"][key]).absolute())
    for group, key in (("data", "validation"), ("model", "weights")):
        if isinstance(plain[group][key], str) and Path(plain[group][key]).is_file():
            plain[group][key] = str(Path(plain[group][key]).absolute())
    return plain


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
