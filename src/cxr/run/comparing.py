"""Finished runs beside each other, from their files and the label files; torch is not needed."""

import hashlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cxr
from cxr import resume, tracking
from cxr.config import CompareConfig, Data, EnsembleConfig
from cxr.report.compare import Run
from cxr.resume import EVALUATION, HARMLESS, config_sha256
from cxr.run import RunError
from cxr.run.provenance import git_commit, now, place_in_wandb
from cxr.run.reporting import freeze_evaluation, read_config, reference_sets, refuse_strangers, write_report
from cxr.run.study import load_study

log = logging.getLogger(__name__)

# of the protocol, what every compared run has in common
SHARED = ("data", "splits", "validation", "expert_validation_patients", "labels")
LONGEST_NAME = 60  # characters, of what two candidates differ in


def compare(config: CompareConfig) -> None:
    """compare.json, compare.html, compare.md and a picture, into the folder that Hydra has made."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.report import compare_page, render
    from cxr.report.compare import compare as compare_runs
    from cxr.report.compare import require_one_protocol
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import record_look

    mode = tracking.decide_mode(config.logger.mode.value)
    started, finished = now(), [_finished(run, config.root, config.expert_labels) for run in _folders(config.runs)]
    study = load_study(finished[0].data)
    references = reference_sets(study)
    # protocols first, from validation predictions alone: a comparison that is refused has looked at no test film
    frozen = [freeze_evaluation(one.folder, one.plain, references) for one in finished]
    runs = [Run(_name(one.folder, finished), validation, protocol.mapping, one.protocol) for one, (protocol, validation) in zip(finished, frozen, strict=True)]
    require_one_protocol({run.name: run.protocol for run in runs}, config.may_differ)
    for i, (one, (protocol, validation)) in enumerate(zip(finished, frozen, strict=True)):
        record_look(one.folder / "looks.jsonl", protocol, checkpoint_sha256=validation.metadata["checkpoint_sha256"])
        predictions = read_predictions(one.folder / "predictions.parquet")
        refuse_strangers(predictions.table, study.splits)
        runs[i] = replace(runs[i], predictions=predictions)

    candidates = _candidates([one.plain for one in finished], runs)
    comparison: dict[str, Any] = {
        "candidates": {
            name: {"runs": [run.name for run in several], "seeds": [run.protocol["seed"] for run in several]} for name, several in candidates.items()
        },
        "reference_sets": compare_runs(candidates, references, draws=config.report.draws, seed=config.report.seed, intersection=config.intersection),
        "protocol": {
            **{key: value for key, value in runs[0].protocol.items() if key in SHARED},
            "may_differ": config.may_differ,
            "draws": config.report.draws,
            "seed": config.report.seed,
            "package_version": cxr.__version__,
            "commit": git_commit(),
            "provenance": {"started": started, "reported": now(), "host": platform.node()},
        },
        "attribution": render.attribution(finished[0].data.name, study.experts is not None),
    }
    into = Path(HydraConfig.get().runtime.output_dir)
    compare_page.write(into, comparison)
    log.info(compare_page.summary(comparison))
    log.info("Comparison: %s", into / "compare.html")
    tracking.announce(mode)
    place = place_in_wandb(config.logger, mode=mode, group="compare", name=into.name, tags=[finished[0].data.name])
    tracking.log_comparison(into, place, comparison, into / "compare.html", into / "figures/differences.png")


def ensemble(config: EnsembleConfig) -> None:
    """A run folder like any other, whose predictions are the mean probabilities of several runs, with its report; into the folder that Hydra has made."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.report.compare import require_one_protocol
    from cxr.report.ensemble import average
    from cxr.report.predictions import read_predictions, write_predictions

    started, finished = now(), [_finished(run, config.root, config.expert_labels) for run in _folders(config.runs)]
    study = load_study(finished[0].data)
    members = [_name(one.folder, finished) for one in finished]
    predictions = [read_predictions(one.folder / "predictions.parquet") for one in finished]
    for one in predictions:
        refuse_strangers(one.table, study.splits)
    require_one_protocol({name: one.protocol for name, one in zip(members, finished, strict=True)}, [])
    joined = average(dict(zip(members, predictions, strict=True)))

    into = Path(HydraConfig.get().runtime.output_dir)
    plain = finished[0].plain | {"ensemble": members}
    protocol = {key: value for key, value in predictions[0].metadata["protocol"].items() if key != "selection"}
    made = {
        "experiment": "ensemble",
        "members": members,
        "model": ", ".join(dict.fromkeys(str(one.protocol["model"]) for one in finished)),
        "seed": ", ".join(str(one.protocol["seed"]) for one in finished),
        "config_sha256": config_sha256(plain),
        "package_version": cxr.__version__,
        "commit": git_commit(),
    }
    checkpoints = [one.metadata["checkpoint_sha256"] for one in predictions]
    metadata = predictions[0].metadata | {
        "checkpoint_sha256": hashlib.sha256("\n".join(sorted(checkpoints)).encode()).hexdigest(),
        "member_checkpoints_sha256": checkpoints,
        "config_sha256": config_sha256(plain),
        "protocol": protocol | made,
        "provenance": {"started": started, "host": platform.node()},
    }
    resume.begin(into, plain, choices={"experiment": "ensemble"}, commit=git_commit())
    write_predictions(into / "predictions.parquet", joined.table, metadata)
    write_report(into, plain, study)


class Finished(NamedTuple):
    """A finished run: its folder, configuration, data, and the protocol of its report."""

    folder: Path
    plain: dict[str, Any]
    data: Data
    protocol: dict[str, Any]


def _folders(runs: Sequence[str]) -> list[Path]:
    folders = [Path(run).absolute() for run in runs]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise RunError(f"runs: two or more different run folders are needed, and {len(set(folders))} were named")
    return folders


def _finished(folder: Path, root: str | None, expert_labels: str | None) -> Finished:
    if not (folder / "report/report.json").is_file():
        raise RunError(f"runs: {folder} is no finished run, for it holds no report/report.json")
    plain, data = read_config(folder, root=root, expert_labels=expert_labels)
    try:
        protocol = json.loads((folder / "report/report.json").read_bytes())["protocol"]
        protocol["seed"], protocol["model"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{folder}/report/report.json is damaged ({error!r}); make it again: python scripts/evaluate.py run={folder}") from error
    return Finished(folder, plain, data, protocol)


def _name(folder: Path, finished: Sequence[Finished]) -> str:
    """<experiment>/<time>, or all of the path where two would be called the same."""
    short = {one.folder: "/".join(one.folder.parts[-2:]) for one in finished}
    return short[folder] if len(set(short.values())) == len(short) else str(folder)


def _candidates(plains: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> dict[str, Sequence[Run]]:
    """Runs that differ in their seed alone are one; each is named by what it differs in from the others, or else by its folder."""
    groups: dict[str, list[int]] = {}
    for i, plain in enumerate(plains):
        groups.setdefault(config_sha256({**plain, "seed": None}), []).append(i)
    if any(len({plains[i]["seed"] for i in group}) < len(group) for group in groups.values()):  # the same run twice, which is a comparison too
        groups = {str(i): [i] for i in range(len(runs))}
    flat = {key: _settings(plains[group[0]]) for key, group in groups.items()}
    differing = sorted({name for one in flat.values() for name, value in one.items() if any(other.get(name) != value for other in flat.values())})
    named: dict[str, Sequence[Run]] = {}
    for key, group in groups.items():
        name = ", ".join(f"{setting}={flat[key][setting]}" for setting in differing if setting in flat[key])
        fits = 0 < len(name) <= LONGEST_NAME and name not in named
        named[name if fits else runs[group[0]].name] = [runs[i] for i in group]
    return named


def _settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, of what can change a number."""
    found = {}
    for group, value in plain.items():
        if group in (*EVALUATION, "seed") or HARMLESS.get(group, ()) is None:
            continue
        for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
            if key not in (HARMLESS.get(group) or ()):
                found[f"{group}.{key}".rstrip(".")] = inner
    return found
