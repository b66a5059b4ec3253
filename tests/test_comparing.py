"""Mirrors run/comparing.py: the real command on finished runs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from commands import call
from test_tracking import records

from cxr.config import Data
from cxr.run.comparing import group_by_recipe
from cxr.run.reading import Finished


@pytest.fixture(scope="module")
def twice(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and its copy."""
    folder = tmp_path_factory.mktemp("runs")
    one, copy = (shutil.copytree(finished_run, folder / name, ignore=shutil.ignore_patterns("checkpoints", "wandb")) for name in ("one", "copy"))
    return one, copy


def compare(into: Path, *runs: Path, more: tuple[str, ...] = (), wandb: str = "disabled"):
    return call("scripts/compare.py", f"runs=[{','.join(map(str, runs))}]", f"hydra.run.dir={into}", "report.draws=100", *more, WANDB_MODE=wandb)


def test_two_copies_of_one_run_differ_by_nothing(tmp_path: Path, twice: tuple[Path, Path]) -> None:
    done = compare(tmp_path / "comparison", *twice, wandb="offline")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "comparison/compare.json").read_text())
    assert {tuple(of["runs"]) for of in told["candidates"].values()} == {(f"{run.parent.name}/{run.name}",) for run in twice}
    n_compared = 0
    for part in told["reference_sets"].values():
        for row in part["findings"].values():
            for found in (row["differences"] or {}).values():
                assert (found["value"], found["p"]) == (0, 1)
                n_compared += 1
    assert n_compared > 30
    assert str(tmp_path / "comparison/compare.html") in done.stdout
    assert str(tmp_path.parent) not in json.dumps(told)  # folders of this machine are nobody's business
    found = records(tmp_path / "comparison")
    run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type) == ("compare", "compare")
    logged = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for record in found for item in record.history.item}
    for name, part in told["reference_sets"].items():
        defined = [finding for finding, row in part["findings"].items() if row["auroc"]]
        assert logged[f"compare/{name}/nrows"] == 2 * (len(defined) + bool(part["macro"]["auroc"]))
    assert logged["compare/page/_type"] == "html-file"


def test_runs_that_differ_in_their_seed_alone_are_one_candidate_named_by_what_differs(tmp_path: Path, twice: tuple[Path, Path]) -> None:
    one, other = twice
    runs = [one]
    for name, seed, rate in (("seed", 1, 0.003), ("rate", 0, 0.001)):
        folder = shutil.copytree(other, tmp_path / name)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["seed"], config["optim"]["lr"] = seed, rate
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        runs.append(folder)
    done = compare(tmp_path / "comparison", *runs)
    assert done.returncode == 0, done.stderr
    candidates = json.loads((tmp_path / "comparison/compare.json").read_text())["candidates"]
    assert {name: len(of["runs"]) for name, of in candidates.items()} == {"optim.lr=0.003": 2, "optim.lr=0.001": 1}


def test_seeds_of_one_folder_are_named_by_it_where_they_differ_in_too_much_to_be_named_by_that() -> None:
    def run(folder: str, seed: int, recipe: int) -> Finished:
        plain = {"seed": seed, "optim": {f"a_rather_long_key_{k}": recipe for k in range(5)}}
        return Finished(Path(folder), plain, Data(name="mini", root="films"), {})

    seeds = [run(f"/runs/{parent}/seed_{seed}", seed, recipe) for recipe, parent in enumerate(("plain", "better")) for seed in (0, 1)]
    assert {name: len(of) for name, of in group_by_recipe(seeds).items()} == {"plain": 2, "better": 2}
    apart = [run("/runs/one/2026-01-31", 0, 0), run("/runs/one/2026-02-01", 1, 0), run("/runs/one/2026-02-02", 0, 1)]
    assert list(group_by_recipe(apart)) == ["one/2026-01-31", "one/2026-02-02"]


def test_what_cannot_be_compared_is_one_line_and_looks_at_nothing(tmp_path: Path, twice: tuple[Path, Path]) -> None:
    one, other = twice
    looks = (one / "looks.jsonl").read_bytes()

    def refused(*runs: Path, more: tuple[str, ...] = ()) -> str:
        done = compare(tmp_path / "comparison", *runs, more=more)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert not (tmp_path / "comparison/compare.json").exists()
        return done.stderr

    assert "two or more different run folders" in refused(one)
    assert "is no finished run" in refused(one, tmp_path / "absent")
    changed = shutil.copytree(other, tmp_path / "changed")
    report = json.loads((changed / "report/report.json").read_text())
    report["protocol"]["labels"]["release"] = "2017"
    (changed / "report/report.json").write_text(json.dumps(report))
    assert "labels.release: v2020 / 2017" in refused(one, changed)
    torn = shutil.copytree(other, tmp_path / "torn")
    (torn / "predictions.parquet").write_bytes((torn / "predictions.parquet").read_bytes()[:-100])
    assert "predictions.parquet" in refused(one, torn)
    (torn / "predictions.parquet").unlink()
    assert "predictions.parquet" in refused(one, torn)
    assert (one / "looks.jsonl").read_bytes() == looks
