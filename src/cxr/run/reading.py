"""Finished runs, opened to be looked at: what was reported, and the labels, films and scores behind it; torch is not needed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from cxr.config import Data
from cxr.resume import CONFIG, REPORT
from cxr.run import RunError
from cxr.run.reporting import freeze_evaluation, read_config, reference_sets, refuse_strangers
from cxr.run.study import Study, load_study

if TYPE_CHECKING:
    from cxr.report.predictions import Predictions
    from cxr.report.reference import ReferenceSet


class Finished(NamedTuple):
    """A finished run: its folder, configuration, data, and the content of its report.json."""

    folder: Path
    plain: dict[str, Any]
    data: Data
    report: dict[str, Any]


@dataclass(frozen=True)
class OpenRun:
    """A finished run with everything that its numbers and pictures were made of.

    Attributes:
        folder: of the run.
        plain: its configuration.
        data: where its films and labels lie.
        report: the content of report.json.
        study: its labels and splits.
        references: reference set -> its films and labels, complete.
        predictions: the model's logits, of every split.
        scores: reference set -> the model's scores under the run's mapping, indexed by image_id, a column per finding that it speaks of.
        metrics: metrics.csv, what was logged in training; empty where there is none, as of an ensemble.
    """

    folder: Path
    plain: dict[str, Any]
    data: Data
    report: dict[str, Any]
    study: Study
    references: "dict[str, ReferenceSet]"
    predictions: "Predictions"
    scores: dict[str, pd.DataFrame]
    metrics: pd.DataFrame


def finished_runs(parent: Path | str) -> list[Path]:
    """Finished runs of an experiment, newest first.

    Args:
        parent: holds run folders, or the folders of multiruns that hold them: outputs/<experiment>.

    Raises:
        RunError: there is none.
    """
    found = [path.parents[1] for pattern in (f"*/{REPORT}", f"*/*/{REPORT}") for path in Path(parent).glob(pattern)]
    if not found:
        raise RunError(f"no finished run in {parent}: make one (make demo, or python train.py experiment=...), or name another folder")
    return sorted(found, key=lambda folder: (folder / CONFIG).stat().st_mtime, reverse=True)  # written once, when the run began


def read_finished(folder: Path, *, root: str | None = None, expert_labels: str | None = None) -> Finished:
    """What a finished run says of itself.

    Args:
        folder: of the run.
        root, expert_labels: where its data and labels lie now, if they moved.

    Raises:
        RunError: it is no finished run, or its report is damaged.
    """
    if not (folder / REPORT).is_file():
        raise RunError(f"{folder} is no finished run, for it holds no {REPORT}")
    plain, data = read_config(folder, root=root, expert_labels=expert_labels)
    try:
        report = json.loads((folder / REPORT).read_bytes())
        report["protocol"]["seed"], report["protocol"]["model"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{folder}/{REPORT} is damaged ({error!r}); make it again: python scripts/evaluate.py run={folder}") from error
    return Finished(folder, plain, data, report)


def open_run(folder: Path | str, *, root: str | None = None, expert_labels: str | None = None) -> OpenRun:
    """Opens a finished run. Its test predictions are read, so this is a look at the test set and is counted as one.

    Args:
        folder: of the run.
        root, expert_labels: where its data and labels lie now, if they moved.

    Raises:
        RunError: it is no finished run; or its report was made from other labels or another mapping than would be used now, so that what was drawn from
            them would not be what it says.
    """
    from cxr.report.figures import read_metrics
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import record_look

    finished = read_finished(Path(folder).absolute(), root=root, expert_labels=expert_labels)
    study = load_study(finished.data)
    references = reference_sets(study)
    frozen, validation = freeze_evaluation(finished.folder, finished.plain, references)
    reported = finished.report["protocol"]
    same = reported["labels"] == study.catalogue.labels and all(
        reported["evaluation"]["mapping"][key] == frozen.content["mapping"][key] for key in ("method", "members")
    )
    if not same:
        raise RunError(
            f"{finished.folder}/{REPORT} was made from other labels, or with another mapping, than {CONFIG} and the label files say;"
            f" make it again: python scripts/evaluate.py run={finished.folder}"
        )
    record_look(finished.folder / "looks.jsonl", frozen, checkpoint_sha256=validation.metadata["checkpoint_sha256"])
    predictions, log = read_predictions(finished.folder / "predictions.parquet"), finished.folder / "metrics.csv"
    refuse_strangers(predictions.table, study)
    return OpenRun(
        *finished,
        study=study,
        references=references,
        predictions=predictions,
        scores={name: frozen.mapping.scores(predictions, reference) for name, reference in references.items()},
        metrics=read_metrics(log),
    )
