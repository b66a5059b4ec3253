"""Where a run's numbers go: Weights & Biases. The only file that imports wandb.

What is sent: the configuration, metrics, the report's tables and figures. What is never sent: pixels, image or patient identifiers, predictions, console
output (a message may name a film).
"""

import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from cxr.atomic import write_whole

log = logging.getLogger(__name__)

# W&B runs whose failure was told
_told: set[str] = set()


class TrackingError(ValueError):
    """W&B was asked for in a way that it cannot serve."""


def decide_mode(wanted: str) -> str:
    """online, offline or disabled; decided before anything slow, because wandb itself would notice a missing key only after the model is built.

    Args:
        wanted: auto, online, offline or disabled. The environment variable WANDB_MODE, if set, wins.

    Raises:
        TrackingError: online without a key, or a WANDB_MODE that does not exist.
    """
    wanted = os.environ.get("WANDB_MODE") or wanted
    wanted = {"dryrun": "offline", "run": "online"}.get(wanted, wanted)
    if wanted not in ("auto", "online", "offline", "disabled"):
        raise TrackingError(f"WANDB_MODE={wanted}: choose auto, online, offline or disabled")
    if wanted in ("offline", "disabled"):
        return wanted
    has_key = _has_key()
    if wanted == "online" and not has_key:
        raise TrackingError("W&B: online was asked for and no key is configured: run `wandb login`, set WANDB_API_KEY, or use logger.mode=offline")
    return "online" if has_key else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    try:
        machines = (Path(os.environ.get("NETRC") or Path.home() / ".netrc")).read_text().split()
    except OSError:
        return False
    return any(word == "machine" and name == host for word, name in pairwise(machines))


def announce(mode: str) -> None:
    """The one line that says where the run is logged."""
    told = {
        "online": "W&B: online",
        "offline": "W&B: offline, into the run folder; `wandb sync <run folder>/wandb/offline-run-*` sends it later",
        "disabled": "W&B: disabled",
    }
    log.info(told[mode])


def make_loggers(
    run_dir: Path,
    *,
    mode: str,
    first_process: bool,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    group: str | None,
    tags: list[str],
    run_id: str,
    first_step: int = 0,
) -> list[Any]:
    """Lightning's loggers: metrics.csv in the run folder always, and a W&B run unless disabled.

    Args:
        run_dir: the run folder; its name becomes the run's name.
        mode: from `decide_mode`.
        first_process: of the job; the others write to no W&B run.
        config: the whole resolved configuration, plain values.
        project, entity, group, tags: of W&B.
        run_id: of the W&B run; a training that goes on has the id that it began with.
        first_step: optimiser steps that lie behind; what metrics.csv holds of later ones is taken back, for they will be done again.
    """
    if not first_process:
        return []
    metrics = _metrics_file(run_dir / "metrics.csv", first_step)
    if mode == "disabled":
        return [metrics]
    import wandb

    run = wandb.init(
        id=run_id,
        resume="allow" if mode == "online" else None,  # offline, a second part with the same id: `wandb sync` joins them
        name=run_dir.name,
        dir=str(run_dir),
        project=project,
        entity=entity,
        group=group,
        tags=list(tags),
        job_type="train",
        config=dict(config),
        mode=mode,  # type: ignore[arg-type]
        # console output may name films; the program's own file is in the run folder
        settings=wandb.Settings(console="off", silent=True, disable_code=True),
    )
    return [metrics, _wandb_logger(run)]


def _metrics_file(path: Path, first_step: int) -> Any:
    """A logger into a CSV file, a row per step that logs anything, on disk as soon as it is logged. (Lightning's own deletes the file of a run that goes on.)

    Args:
        path: of the file.
        first_step: rows of this step and later ones are taken out.
    """
    from pytorch_lightning.loggers.logger import Logger

    class MetricsFile(Logger):
        name, version = "", ""

        def __init__(self) -> None:
            super().__init__()
            rows = self._rows() if path.is_file() else []
            self._write_anew([row for row in rows if int(row["step"]) < first_step])

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            row = {**metrics, "step": step}
            if set(row) <= set(self.columns):
                with path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
            else:
                self._write_anew([*self._rows(), row])

        def _rows(self) -> list[dict[str, Any]]:
            """Those that were written whole; the last one of a killed process may not have been."""
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    rows = list(csv.DictReader(file, strict=True))
            except (UnicodeDecodeError, csv.Error) as error:
                raise TrackingError(f"{path} is damaged ({error}); delete it, and the curves begin where the training goes on") from error
            whole = [row for row in rows if None not in row and None not in row.values()]
            return [row for row in whole if row.get("step", "").isascii() and row.get("step", "").isdigit()]

        def _write_anew(self, rows: list[dict[str, Any]]) -> None:
            self.columns = sorted({"epoch", "step"}.union(*rows))
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, self.columns)
            writer.writeheader()
            writer.writerows(rows)
            write_whole(path, text.getvalue().encode())

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            """They are in config.yaml."""

    return MetricsFile()


def _wandb_logger(run: Any) -> Any:
    """Lightning's logger for W&B; a W&B that fails in the middle of a run costs its curves and not the training."""
    from pytorch_lightning.loggers import WandbLogger

    class LenientWandbLogger(WandbLogger):
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            with tolerated(run, "its curves"):
                super().log_metrics(dict(metrics), step)

    return LenientWandbLogger(experiment=run, log_model=False)


@contextmanager
def tolerated(run: Any, lost: str) -> Iterator[None]:
    """W&B's own process may have died, or its server be gone; says so once for a run."""
    try:
        yield
    except Exception as error:  # of whatever kind: none of them is worth a training
        if run.id not in _told:
            _told.add(run.id)
            log.warning(
                "W&B failed, and the run goes on without %s there; everything is in the run folder all the same. (%s: %s)", lost, type(error).__name__, error
            )


def log_report(loggers: list[Any], report: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    """The evaluation into the W&B run: summary values with their intervals, a table per reference set, the figures.

    Args:
        loggers: from `make_loggers`.
        report: the content of report.json.
        figures: title -> PNG without pixels of any film.
    """
    for run in _wandb_runs(loggers):
        with tolerated(run, "its report"):
            _log_report(run, report, figures)


def _log_report(run: Any, report: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    import wandb

    for name, reference in report["reference_sets"].items():
        if reference.get("findings") is None:
            continue
        table = wandb.Table(columns=["finding", "n_pos", "n_neg", "auroc", "auroc_lo", "auroc_hi", "auprc", "auprc_lo", "auprc_hi"])
        for finding, row in reference["findings"].items():
            numbers = [row.get(metric, {}).get(end) if row.get(metric) else None for metric in ("auroc", "auprc") for end in ("value", "lo", "hi")]
            table.add_data(finding, row["n_pos"], row["n_neg"], *numbers)
            _summarise(run, f"test/{name}/auroc/{finding}", row.get("auroc"))
            _summarise(run, f"test/{name}/auprc/{finding}", row.get("auprc"))
        _summarise(run, f"test/{name}/auroc_macro", reference["macro"].get("auroc"))
        run.summary[f"test/{name}/n_images"] = reference["n_images"]
        run.log({f"test/{name}/findings": table})
        if readers := reference.get("readers"):
            run.log({f"test/{name}/readers": _readers_table(readers)})
    run.log({f"figures/{title}": wandb.Image(str(path)) for title, path in figures.items()})


def _readers_table(readers: Mapping[str, Any]) -> Any:
    """Who read how well, an uncertain read counting as no; readers are known by their published numbers."""
    import wandb

    table = wandb.Table(columns=["reader", "finding", "held_out", "n_pos", "n_neg", "sensitivity", "specificity"])
    for reader, rows in readers["performance"]["no"]["by_reader"].items():
        for finding, row in rows.items():
            rates = [row[name]["value"] if row[name] else None for name in ("sensitivity", "specificity")]
            table.add_data(reader, finding, reader in readers["held_out"], row["n_pos"], row["n_neg"], *rates)
    return table


def _summarise(run: Any, name: str, estimate: Mapping[str, float] | None) -> None:
    if estimate and estimate["value"] is not None:
        run.summary[name] = estimate["value"]
        run.summary[f"{name}_lo"], run.summary[f"{name}_hi"] = estimate["lo"], estimate["hi"]


def finish(loggers: list[Any], *, failed: bool) -> None:
    """Closes the W&B run, marked failed or not; without this, two jobs of one multirun would share a run."""
    for run in _wandb_runs(loggers):
        with tolerated(run, "an end"):
            run.finish(exit_code=1 if failed else 0)


def _wandb_runs(loggers: list[Any]) -> list[Any]:
    return [logger.experiment for logger in loggers if hasattr(logger, "experiment")]
