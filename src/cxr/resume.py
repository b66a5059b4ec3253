"""Which run goes on: what a run folder says of itself, and what a given configuration may differ in from the run's own.

A run folder holds, from its first second, config.yaml (the whole resolved configuration) and run.json (which options were chosen, the id of its W&B run).
It is unfinished until its report is there.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cxr.atomic import write_whole

CONFIG, RUN, REPORT = "config.yaml", "run.json", "report/report.json"

# keys that cannot change a number
HARMLESS: dict[str, tuple[str, ...] | None] = {
    "data": ("root", "labels", "store_dir", "expert_labels", "num_workers"),
    "trainer": ("accelerator", "devices", "num_nodes", "strategy", "checkpoint_every_minutes", "max_nonfinite_steps"),
    "logger": None,
    "look_at_test": None,
}
# what is done with the predictions: no part of what made them, and hashed in the evaluation protocol
EVALUATION = ("macro", "mapping", "operating", "report")
# keys that name a file that counts by its content
FILES = (("data", "validation"), ("model", "weights"))

Plain = dict[str, Any]


class ResumeError(ValueError):
    """There is no such run to go on with, or it cannot go on as it was asked to."""


def begin(folder: Path, plain: Plain, *, choices: Mapping[str, str], commit: str | None) -> Plain:
    """Makes a folder a run folder, and returns the content of its run.json; of a folder that is one already, that one's."""
    if (folder / RUN).is_file() and (folder / CONFIG).is_file():
        return read(folder)[1]
    facts = {"choices": dict(choices), "wandb_id": secrets.token_hex(4), "commit": commit}
    write_whole(folder / CONFIG, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
    write_whole(folder / RUN, (json.dumps(facts, indent=1) + "\n").encode())
    return facts


def read(folder: Path) -> tuple[Plain, Plain]:
    """(the run's configuration, the content of its run.json); ResumeError where they are not to be had."""
    told = f"resume={folder}: "
    try:
        plain, facts = yaml.safe_load((folder / CONFIG).read_bytes()), json.loads((folder / RUN).read_bytes())
        whole = isinstance(plain, dict) and isinstance(facts["choices"], dict) and all(isinstance(facts[key], str | None) for key in ("wandb_id", "commit"))
    except FileNotFoundError as error:
        raise ResumeError(f"{told}no run that could go on, for there is no {Path(error.filename).name}; start it as you did") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ResumeError(f"{told}{CONFIG} or {RUN} is damaged ({(str(error).splitlines() or ['not readable'])[0]})") from error
    if not whole:
        raise ResumeError(f"{told}{CONFIG} or {RUN} is damaged")
    return plain, facts


def arguments(typed: list[str]) -> list[str]:
    """The command line of a run that goes on: `resume=<folder>` brings the folder and the options of groups that the run was started with.

    Args:
        typed: by the user.

    Returns:
        The same, if it does not name a folder.
    """
    asked = [argument.partition("=")[2] for argument in typed if argument.startswith("resume=")]
    if not asked or asked[-1] in ("", "null", "auto"):
        return typed
    written = asked[-1]
    folder = Path(written[1:-1] if len(written) > 1 and written[0] == written[-1] and written[0] in "'\"" else written).absolute()
    given = {argument.partition("=")[0] for argument in typed}
    choices = [f"{group}={choice}" for group, choice in read(folder)[1]["choices"].items() if group not in given]
    others = [argument for argument in typed if not argument.startswith(("hydra.", "resume="))]
    return [*choices, *others, f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]


def quoted(text: str | Path) -> str:
    """As Hydra's command line takes any text: within quotes it reads a backslash as itself unless a quote follows."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), str(text)) + '"'


def agree(saved: Plain, composed: Plain, overrides: list[str], choices: Mapping[str, str]) -> Plain:
    """The run's configuration, with those typed keys changed that cannot change a number.

    Args:
        saved: of the run.
        composed: what Hydra made of the command line.
        overrides: the command line.
        choices: the options of groups that the run was started with.

    Raises:
        ResumeError: what was typed differs from the run's configuration; names each key with both values.
    """
    agreed, conflicts = json.loads(json.dumps(saved)), []
    for override in overrides:
        name, _, value = override.partition("=")
        name = name.lstrip("+~")
        if name == "resume":
            continue
        if name in choices:
            if value != choices[name]:
                conflicts.append(f"{name}={value} (the run: {choices[name]})")
            continue
        new, old = look_up(composed, name), look_up(saved, name)
        group, _, key = name.partition(".")
        if new == old:
            continue
        allowed = HARMLESS.get(group, ())
        if allowed is None or key in allowed:
            if key:
                agreed[group][key] = new
            else:
                agreed[group] = new
        else:
            conflicts.append(f"{name}={new} (the run: {old})")
    if conflicts:
        raise ResumeError(f"a run goes on as it began, and this differs: {', '.join(conflicts)}. Leave it out, or start a new run without resume")
    return agreed


def look_up(plain: Plain, dotted: str) -> Any:
    value: Any = plain
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def settings(plain: Plain) -> dict[str, Any]:
    """Dotted key -> value, of all that can change a number of the run or of its report.

    >>> settings({"data": {"root": "/films", "image_size": 224}, "seed": 1, "logger": {"mode": "auto"}})
    {'data.image_size': 224, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for group, value in plain.items():
        harmless = HARMLESS.get(group, ())
        if harmless is None:
            continue
        inner = {f"{group}.{key}": item for key, item in value.items() if key not in harmless} if isinstance(value, dict) else {group: value}
        found |= inner
    return found


def is_finished(folder: Path) -> bool:
    return (folder / REPORT).is_file()


def unfinished(parent: Path, sha256: str) -> Iterator[Path]:
    """Run folders in `parent` that are not finished and have this configuration, newest first.

    Args:
        parent: holds the runs of an experiment, each named by its time.
        sha256: from `config_sha256`.
    """
    for folder in sorted((path.parent for path in parent.glob(f"*/{RUN}")), key=lambda path: path.name, reverse=True):
        try:
            if not is_finished(folder) and config_sha256(read(folder)[0]) == sha256:
                yield folder
        except ResumeError:
            continue  # a damaged one is nobody's to go on with


def config_sha256(plain: Plain) -> str:
    """The hash of what can change the numbers: paths, workers, devices and the logger are left out; files count by their content."""
    kept = {group: value for group, value in plain.items() if HARMLESS.get(group, ()) is not None and group not in EVALUATION}
    for group, keys in HARMLESS.items():
        if keys and isinstance(kept.get(group), dict):
            kept[group] = {key: value for key, value in kept[group].items() if key not in keys}
    if sources := look_up(kept, "data.sources"):  # a run of an earlier version has none
        bare = {name: {key: value for key, value in source.items() if key != "root"} for name, source in sources.items() if source["root"]}
        kept["data"] = kept["data"] | {"sources": bare}
    for group, key in FILES:
        value = look_up(kept, f"{group}.{key}")
        if isinstance(value, str) and Path(value).is_file():
            kept[group] = kept[group] | {key: file_sha256(Path(value))}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_identity(kept: Any, now: Mapping[str, str], folder: Path) -> None:
    """Refuses a checkpoint of another configuration or other data than today's.

    Args:
        kept: "identity" of the checkpoint.
        now: the same, made of today's files.
        folder: of the run.
    """
    differing = [name for name, value in now.items() if not isinstance(kept, dict) or kept.get(name) != value]
    if differing:
        raise ResumeError(
            f"resume={folder}: this is not what the run began with: {', '.join(differing)} changed since its last checkpoint."
            " Going on would mix two studies; bring the files back as they were, or start a new run"
        )
