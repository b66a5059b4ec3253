"""The benchmark's command line. It knows neither Hydra nor tables, for two of its stages run on a bare GPU node."""

import difflib
import os
import platform
import sys
from dataclasses import dataclass, field, fields
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cxr import process

PROJECT = Path(__file__).resolve().parents[3]
STAGES = ("prepare", "loader", "step", "predict", "statistics", "startup")


class BenchmarkError(ValueError):
    """The benchmark cannot be run as it was asked for."""


@dataclass(frozen=True)
class Settings:
    """The keys, as scripts/benchmark.py takes them: key=value."""

    stage: str = field(default="", metadata={"help": "prepare, loader, step, predict, statistics, startup"})
    images: str = field(
        default="",
        metadata={"help": "folder with PNG films, of 1024 x 1024 (predict: of any size); empty draws some (speed depends on what is in them, a little)"},
    )
    rounds: int = field(default=7, metadata={"help": "how often every case is timed"})
    size: float = field(default=1.0, metadata={"help": "fraction of the work of a round; small values try the command out"})
    device: str = field(default="auto", metadata={"help": "of the stages step and predict: cpu, cuda, or auto"})
    models: str = field(default="", metadata={"help": "of the stages step and predict: name@pixels, comma-separated; empty chooses for the device"})
    folder: str = field(default="", metadata={"help": "run folder; empty is outputs/benchmark/<stage>/<time>"})


def main(arguments: list[str], doc: str) -> int:
    """Runs a stage and prints its tables.

    Args:
        arguments: key=value, as typed.
        doc: what --help prints first.

    Returns:
        The exit status.
    """
    if {"--help", "-h"} & set(arguments):
        keys = [f"  {f'{item.name}={item.default}'.ljust(16)} {item.metadata['help']}" for item in fields(Settings)]
        print("\n".join([doc.strip(), "", "Keys (key=value):", *keys]))
        return 0
    try:
        settings = parse(arguments)
        results = run(settings)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = Path(settings.folder or PROJECT / "outputs" / "benchmark" / settings.stage / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    from cxr.benchmark.results import write

    print(write(folder, results, machine() | {"command": " ".join(["python", "scripts/benchmark.py", *arguments])}))
    print(f"\nBenchmark: {folder}")
    return 0


def parse(arguments: list[str]) -> Settings:
    """key=value into Settings; BenchmarkError, with the nearest name, for anything else."""
    known = {item.name: item for item in fields(Settings)}
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in known or not equals:
            near = difflib.get_close_matches(name, known, n=1)
            raise BenchmarkError(f"{argument}: no such key" + (f"; did you mean {near[0]}=?" if near else f"; there are {', '.join(known)}"))
        kind = type(known[name].default)
        try:
            values[name] = kind(value)
        except ValueError:
            raise BenchmarkError(f"{argument}: {value!r} is no {kind.__name__}") from None
    settings = Settings(**values)
    if settings.stage not in STAGES:
        raise BenchmarkError(f"stage={settings.stage}: choose {', '.join(STAGES[:-1])} or {STAGES[-1]}")
    if settings.rounds < 1 or not 0 < settings.size <= 100:
        raise BenchmarkError(f"rounds={settings.rounds} size={settings.size}: at least one round, of a size above 0")
    if settings.images and not any(Path(settings.images).glob("*.png")):
        raise BenchmarkError(f"images={settings.images}: no PNG file is there")
    return settings


def run(settings: Settings) -> list[dict[str, Any]]:
    """The contests of a stage, held one after another."""
    process.prepare()
    # the room of a stage is imported here, so that no stage loads what only another needs
    if settings.stage == "prepare":
        from cxr.benchmark.prepare import run_stage
    elif settings.stage == "loader":
        from cxr.benchmark.loader import run_stage
    elif settings.stage == "step":
        from cxr.benchmark.step import run_stage
    elif settings.stage == "predict":
        from cxr.benchmark.predict import run_stage
    elif settings.stage == "statistics":
        from cxr.benchmark.statistics import run_stage
    else:
        from cxr.benchmark.startup import run_stage
    return run_stage(settings)


def missing(*packages: str) -> str:
    """Why a peer cannot take part, or an empty string."""
    absent = [package for package in packages if find_spec(package) is None]
    return f"{', '.join(absent)} not installed (make peers)" if absent else ""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), "system": platform.platform()}
    found["python"] = platform.python_version()
    if torch := sys.modules.get("torch"):
        found |= {"torch": torch.__version__, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    return found
