"""Mirrors benchmark/: every stage through the real command, on a sliver of its work; what the figures say is not asserted, that they are right is."""

import json
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from commands import call

from cxr.benchmark.command import BenchmarkError, parse
from cxr.benchmark.loader import RECIPE
from cxr.benchmark.measure import Case, Contest, hold
from cxr.config import Augment

PEERS = ("torchxrayvision", "litdata", "datasets")


@pytest.mark.parametrize(
    ("stage", "contests", "ours"),
    [
        ("prepare", 7, "cxr, fast path"),
        ("loader", 5, "cxr, raw fetch"),
        ("statistics", 3, "cxr"),
        ("startup", 1, "python train.py --help"),
    ],
)
def test_a_stage_leaves_its_figures_tables_and_picture(tmp_path: Path, stage: str, contests: int, ours: str) -> None:
    done = call("scripts/benchmark.py", f"stage={stage}", "rounds=1", "size=0.01", f"folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    held = [result for result in content["results"] if "cases" in result]
    assert len(held) == contests
    assert ours in {case["name"] for result in held for case in result["cases"]}
    for result in held:
        rate = {case["name"]: case["per_second"] for case in result["cases"]}
        for pair in result["compared"]:  # of one round, the ratio of the rates is the ratio
            assert pair["times"]["median"] == pytest.approx(rate[pair["one"]] / rate[pair["other"]])
        assert all("NOT" not in note for note in result["notes"])
    assert (tmp_path / "run" / "benchmark.md").read_text().strip() in done.stdout
    assert (tmp_path / "run" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    absent = {reason for result in held for reason in result["missing"].values()}
    assert not absent or not all(map(find_spec, PEERS)), absent


@pytest.mark.parametrize("stage", ["step", "predict"])
def test_a_network_is_held_against_its_bare_step(tmp_path: Path, stage: str) -> None:
    done = call("scripts/benchmark.py", f"stage={stage}", "rounds=1", "size=0.1", "device=cpu", "models=test_resnet@32", f"folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "run" / "benchmark.json").read_text())["results"]
    assert {case["role"] for case in result["cases"]} == {"ours", "limit"}
    assert result["compared"][0]["times"]["median"] > 0


def test_the_peers_are_there_where_they_must_be() -> None:
    absent = [name for name in PEERS if find_spec(name) is None]
    if absent and not os.environ.get("CXR_REQUIRE_REAL"):
        pytest.skip(f"{', '.join(absent)} not installed, so the benchmark's peers went untested: make peers")
    assert not absent


def test_a_round_that_does_not_count_comes_first_and_ratios_are_taken_round_by_round() -> None:
    slow = iter([100.0, 4.0, 9.0, 2.0])
    quick = iter([1.0, 2.0, 3.0, 1.0])
    cases = [Case("quick", "ours", lambda: (1, next(quick))), Case("slow", "peer", lambda: (1, next(slow)))]
    result = hold(Contest("a", "b", cases, [("quick", "slow")]), rounds=3)
    assert result["compared"][0]["times"] == {"median": 2.0, "min": 2.0, "max": 3.0}
    assert [case["seconds"]["median"] for case in result["cases"]] == [2.0, 4.0]
    assert result["cases"][1]["per_second"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["stag=loader"], "did you mean stage=?"),
        (["stage=lodaer"], "choose prepare, loader, step, predict, statistics or startup"),
        (["stage=loader", "rounds=few"], "'few' is no int"),
        (["stage=loader", "rounds=0"], "at least one round"),
        (["stage=loader", "images=/nowhere"], "no PNG file is there"),
        (["loader"], "no such key"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], told: str) -> None:
    with pytest.raises(BenchmarkError, match=told.replace("?", r"\?")):
        parse(arguments)


def test_a_mistake_ends_the_command_with_its_line_and_a_failure() -> None:
    done = call("scripts/benchmark.py", "stage=everything")
    assert done.returncode == 1
    assert done.stderr.startswith("error: stage=everything: choose")


def test_files_read_by_a_peer_are_the_films_that_were_given(tmp_path: Path) -> None:
    from PIL import Image

    from cxr.benchmark.peers import IMAGENET_MEAN, IMAGENET_STD, FileDataset

    film = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    Image.fromarray(film).save(tmp_path / "film.png")
    pixels, _ = FileDataset([tmp_path / "film.png"], resized=False)[0]
    back = np.round((pixels.numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN) * 255).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(film, (224, 224)).reshape(-1, 224, 224)
    assert any(np.array_equal(window, back[..., 0]) for window in windows)


def test_the_recipe_that_is_measured_is_the_default_one() -> None:
    assert asdict(Augment()) == {"enabled": True, **RECIPE}
