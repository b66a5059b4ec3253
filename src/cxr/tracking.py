"""Where a run's numbers go: Weights & Biases. The only file that imports wandb.

What is sent: the configuration, metrics, the report's tables and figures. What is never sent: pixels, image or patient identifiers, predictions, console
output (a message may name a film).
"""

import logging
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


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
) -> list[Any]:
    """Lightning's loggers: metrics.csv in the run folder always, and a W&B run unless disabled.

    Args:
        run_dir: the run folder; its name becomes the run's name.
        mode: from `decide_mode`.
        first_process: of the job; the others write to no W&B run.
        config: the whole resolved configuration, plain values.
        project, entity, group, tags: of W&B.
    """
    from pytorch_lightning.loggers import CSVLogger

    csv = CSVLogger(save_dir=str(run_dir), name="", version="")
    if mode == "disabled" or not first_process:
        return [csv]
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    run = wandb.init(
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
    return [csv, WandbLogger(experiment=run, log_model=False)]


def log_report(loggers: list[Any], report: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    """The evaluation into the W&B run: summary values with their intervals, a table per reference set, the figures.

    Args:
        loggers: from `make_loggers`.
        report: the content of report.json.
        figures: title -> PNG without pixels of any film.
    """
    for run in _wandb_runs(loggers):
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
        run.finish(exit_code=1 if failed else 0)


def _wandb_runs(loggers: list[Any]) -> list[Any]:
    return [logger.experiment for logger in loggers if type(logger).__name__ == "WandbLogger"]
