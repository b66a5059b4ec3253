"""Finished runs beside each other, from their files and the label files; torch is not needed."""

import hashlib
import logging
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cxr
from cxr import resume, tracking
from cxr.config import CompareConfig, EnsembleConfig
from cxr.report.compare import Run
from cxr.resume import EVALUATION, config_sha256, settings
from cxr.run import RunError
from cxr.run.provenance import git_commit, now, place_in_wandb
from cxr.run.reading import Finished, read_finished
from cxr.run.reporting import freeze_evaluation, reference_sets, refuse_strangers, write_report
from cxr.run.study import load_study

log = logging.getLogger(__name__)

# of the protocol, what every compared run has in common
SHARED = ("data", "sources", "splits", "validation", "expert_validation_patients", "labels")
LONGEST_NAME = 60  # characters, of what two candidates differ in


def compare(config: CompareConfig) -> None:
    """compare.json, compare.html, compare.md and pictures, into the folder that Hydra has made."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.report import compare_page

    mode = tracking.decide_mode(config.logger.mode.value)
    comparison, into = make_comparison(config), Path(HydraConfig.get().runtime.output_dir)
    compare_page.write(into, comparison)
    log.info(compare_page.summary(comparison))
    log.info("Comparison: %s", into / "compare.html")
    tracking.announce(mode)
    place = place_in_wandb(config.logger, mode=mode, group="compare", name=into.name, tags=[comparison["protocol"]["data"]])
    tracking.log_comparison(into, place, comparison, into / "compare.html", sorted((into / "figures").glob("*.png")))


def make_comparison(config: CompareConfig, *, recipe: str = "") -> dict[str, Any]:
    """The content of compare.json. A look at the test set, counted in every run's folder.

    Args:
        config: which runs, and how.
        recipe: what the one candidate is called, where all runs are seeds of one.
    """
    from cxr.report import render
    from cxr.report.compare import compare as compare_runs
    from cxr.report.compare import require_one_protocol
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import record_look

    started, finished = now(), _read(config)
    study = load_study(finished[0].data)
    references = reference_sets(study)
    # protocols first, from validation predictions alone: a comparison that is refused has looked at no test film
    frozen = [freeze_evaluation(one.folder, one.plain, references) for one in finished]
    runs = {
        one.folder: Run(_name(one.folder, finished), validation, protocol.mapping, one.report["protocol"])
        for one, (protocol, validation) in zip(finished, frozen, strict=True)
    }
    require_one_protocol({run.name: run.protocol for run in runs.values()}, config.may_differ)
    for one, (protocol, validation) in zip(finished, frozen, strict=True):
        record_look(one.folder / "looks.jsonl", protocol, checkpoint_sha256=validation.metadata["checkpoint_sha256"])
        predictions = read_predictions(one.folder / "predictions.parquet")
        refuse_strangers(predictions.table, study)
        runs[one.folder] = replace(runs[one.folder], predictions=predictions)

    groups = {recipe: finished} if recipe else group_by_recipe(finished)
    candidates = {name: [runs[one.folder] for one in several] for name, several in groups.items()}
    return {
        "candidates": {
            name: {"runs": [run.name for run in several], "seeds": [run.protocol["seed"] for run in several]} for name, several in candidates.items()
        },
        "reference_sets": compare_runs(candidates, references, draws=config.report.draws, seed=config.report.seed, intersection=config.intersection),
        "protocol": {
            **{key: value for key, value in finished[0].report["protocol"].items() if key in SHARED},
            "may_differ": config.may_differ,
            "draws": config.report.draws,
            "seed": config.report.seed,
            "package_version": cxr.__version__,
            "commit": git_commit(),
            "provenance": {"started": started, "reported": now(), "host": platform.node()},
        },
        "attribution": render.attribution(finished[0].data.name, study.experts is not None, study.sources),
    }


def ensemble(config: EnsembleConfig) -> None:
    """A run folder like any other, whose predictions are the mean probabilities of several runs, with its report; into the folder that Hydra has made."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.report.compare import require_one_protocol
    from cxr.report.ensemble import average
    from cxr.report.predictions import read_predictions, write_predictions

    started, finished = now(), _read(config)
    study = load_study(finished[0].data)
    members = [_name(one.folder, finished) for one in finished]
    predictions = [read_predictions(one.folder / "predictions.parquet") for one in finished]
    for one in predictions:
        refuse_strangers(one.table, study)
    require_one_protocol({name: one.report["protocol"] for name, one in zip(members, finished, strict=True)}, [])
    joined = average(dict(zip(members, predictions, strict=True)))

    into = Path(HydraConfig.get().runtime.output_dir)
    plain = finished[0].plain | {"ensemble": members}
    protocol = {key: value for key, value in predictions[0].metadata["protocol"].items() if key != "selection"}
    made = {
        "experiment": "ensemble",
        "members": members,
        "model": ", ".join(dict.fromkeys(str(one.report["protocol"]["model"]) for one in finished)),
        "seed": ", ".join(str(one.report["protocol"]["seed"]) for one in finished),
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


def _read(config: CompareConfig | EnsembleConfig) -> list[Finished]:
    folders = [Path(run).absolute() for run in config.runs]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise RunError(f"runs: two or more different run folders are needed, and {len(set(folders))} were named")
    return [read_finished(folder, root=config.root, expert_labels=config.expert_labels) for folder in folders]


def _name(folder: Path, finished: Sequence[Finished]) -> str:
    """<experiment>/<time>, or all of the path where two would be called the same."""
    short = {one.folder: "/".join(one.folder.parts[-2:]) for one in finished}
    return short[folder] if len(set(short.values())) == len(short) else str(folder)


def group_by_recipe(finished: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The candidates of a comparison, by name: runs that differ in their seed alone are one; each is named by what it differs in, or else by its folder."""
    groups: dict[str, list[Finished]] = {}
    for one in finished:
        groups.setdefault(config_sha256({**one.plain, "seed": None}), []).append(one)
    if any(len({one.plain["seed"] for one in group}) < len(group) for group in groups.values()):  # the same run twice, which is a comparison too
        groups = {str(one.folder): [one] for one in finished}
    differing = differing_settings({key: group[0].plain for key, group in groups.items()})
    named: dict[str, list[Finished]] = {}
    for key, group in groups.items():
        name = ", ".join(f"{setting}={value}" for setting, value in differing[key].items())
        fits = 0 < len(name) <= LONGEST_NAME and name not in named
        named[name if fits else _name_of_folder(group, finished, taken=named)] = group
    return named


def _name_of_folder(group: Sequence[Finished], finished: Sequence[Finished], *, taken: Collection[str]) -> str:
    """Of several seeds the folder that holds them alone, as scripts/seeds.py makes it; or else that of the first."""
    above = group[0].folder.parent
    holds_them_alone = len(group) > 1 and [one.folder for one in finished if one.folder.parent == above] == [one.folder for one in group]
    return above.name if holds_them_alone and above.name not in taken else _name(group[0].folder, finished)


def differing_settings(plains: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What configurations differ in, of all that can change a number but the seed.

    Args:
        plains: name -> configuration.

    Returns:
        name -> dotted key, sorted -> value; without the keys that a configuration does not have.

    >>> differing_settings({"a": {"optim": {"lr": 0.1, "name": "sgd"}, "seed": 0}, "b": {"optim": {"lr": 0.2, "name": "sgd"}, "seed": 1}})
    {'a': {'optim.lr': 0.1}, 'b': {'optim.lr': 0.2}}
    """
    flat = {name: settings({key: value for key, value in plain.items() if key not in (*EVALUATION, "seed")}) for name, plain in plains.items()}
    keys = sorted({key for one in flat.values() for key, value in one.items() if any(other.get(key) != value for other in flat.values())})
    return {name: {key: one[key] for key in keys if key in one} for name, one in flat.items()}
