"""Where a run's numbers go: Weights & Biases. The only file that imports wandb.

What is sent is listed in docs/privacy.md, and tests/test_privacy.py holds it to that list: the configuration, metrics, the report's tables and figures. Never
patient numbers, predictions, console output (a message may name a film); nor, unless logger.gallery says so, pixels or names of films, nor, unless
logger.describe_machine does, folders and names of machines.
"""

import csv
import io
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from cxr.atomic import write_whole

log = logging.getLogger(__name__)

ENDS = ("value", "lo", "hi")  # of an estimate
CHOSEN_BY = "val/auroc_macro"  # the checkpoint


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


def load() -> None:
    """Imports wandb before torch: after it, the same takes three times as long, for wandb searches all modules there are. timm imports it in any case."""
    with suppress(ImportError):
        import wandb  # noqa: F401


def announce(mode: str) -> None:
    """The one line that says where the run is logged."""
    told = {
        "online": "W&B: online",
        "offline": "W&B: offline, into the run folder; `wandb sync <run folder>/wandb/latest-run` sends it later",
        "disabled": "W&B: disabled",
    }
    log.info(told[mode])


@dataclass(frozen=True)
class Place:
    """Where in W&B a run goes, and how.

    Attributes:
        project, entity, group, name, job_type, tags: of W&B.
        mode: from `decide_mode`.
        may_be_offline: where the server does not answer; otherwise that is an error.
        wait_seconds: for the server, at the start of the run and at its end.
        describe_machine: sends the machine's name, folders and command line too.
    """

    project: str
    entity: str | None
    group: str | None
    name: str
    job_type: str
    tags: Sequence[str]
    mode: str
    may_be_offline: bool = False
    wait_seconds: float = 120
    describe_machine: bool = False


def make_loggers(run_dir: Path, place: Place, *, first_process: bool, config: Mapping[str, Any], run_id: str, first_step: int = 0) -> list[Any]:
    """Lightning's loggers: metrics.csv in the run folder always, and a W&B run unless disabled.

    Args:
        run_dir: the run folder.
        place: in W&B.
        first_process: of the job; the others write to no W&B run.
        config: the whole resolved configuration, plain values.
        run_id: of the W&B run; a training that goes on has the id that it began with.
        first_step: optimiser steps that lie behind; what metrics.csv holds of later ones is taken back, for they will be done again.

    Raises:
        TrackingError: metrics.csv is damaged, or W&B does not take the run.
    """
    if not first_process:
        return []
    metrics = _metrics_file(run_dir / "metrics.csv", first_step)
    if place.mode == "disabled":
        return [metrics]
    run = _begin(run_dir, place, config, run_id)

    def begin_offline() -> Any:
        return _begin(run_dir, replace(place, mode="offline"), config, run_id)

    return [metrics, _wandb_curves(run, metrics.rows, begin_offline=begin_offline, folder=run_dir / "wandb")]


def _begin(folder: Path, place: Place, config: Mapping[str, Any], run_id: str) -> Any:
    """A W&B run whose files lie in the folder; TrackingError if W&B does not take it."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb's crash reports go to a third party, with whatever they hold
    import wandb

    def begin(mode: str) -> Any:
        run = wandb.init(
            id=run_id,
            resume="allow" if mode == "online" else None,  # offline, a second part with the same id: `wandb sync` joins them
            name=place.name,
            dir=str(folder),
            project=place.project,
            entity=place.entity,
            group=place.group,
            tags=list(place.tags),
            job_type=place.job_type,
            config=_of_the_study(config, describe_machine=place.describe_machine),
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(
                console="off",  # it may name films; the program's own file is in the run folder
                silent=True,
                disable_code=True,
                x_disable_meta=not place.describe_machine,
                host=None if place.describe_machine else "undisclosed",  # an offline run would keep it all the same
                disable_git=True,  # it would tell of whatever repository the command was typed in
                program=f"{place.job_type}.py",  # and not its folder
                init_timeout=place.wait_seconds,
                finish_timeout=place.wait_seconds,  # without one, a server that is gone keeps a finished run waiting for days
                finish_timeout_raises=True,
            ),
        )
        run.define_metric(CHOSEN_BY, summary="max")  # instead of the last epoch's, in the table of runs
        return run

    try:
        return begin(place.mode)
    except wandb.errors.Error as error:  # it does not answer, or not to this key
        told = f"W&B does not take this run ({str(error).splitlines()[0]})"
        if place.mode == "offline" or not place.may_be_offline:
            raise TrackingError(f"{told}: use logger.mode=offline and send the run later with `wandb sync`, or logger.mode=disabled") from error
        log.warning("%s: this run is logged offline. `wandb sync %s/wandb/latest-run` sends it later", told, folder)
        wandb.teardown()  # which still holds the id
        return begin("offline")


def _of_the_study(config: Mapping[str, Any], *, describe_machine: bool) -> dict[str, Any]:
    """What two runs may be told apart by: no logger, nor, unless the machine is described, where things lie on it; of other absolute paths the last part."""
    kept = {group: value for group, value in config.items() if group != "logger"}
    if describe_machine:
        return kept
    if "data" in kept:
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in ("root", "store_dir")}
    return _without_folders(kept)


def _without_folders(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_folders(value) for key, value in config.items()}
    return Path(config).name if isinstance(config, str) and Path(config).is_absolute() else config


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
            rows = self.rows() if path.is_file() else []
            self._write_anew([row for row in rows if int(row["step"]) < first_step])

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            row = {**metrics, "step": step}
            if set(row) <= set(self.columns):
                with path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
            else:
                self._write_anew([*self.rows(), row])

        def rows(self) -> list[dict[str, Any]]:
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


def _wandb_curves(run: Any, rows: Callable[[], list[dict[str, Any]]], *, begin_offline: Callable[[], Any], folder: Path) -> Any:
    """A logger into a W&B run, whose steps are the optimiser's. (Lightning's own counts calls, so that a run that goes on would tell some steps twice.)

    W&B may fail: its process may be killed, or its server go away. The run is then told anew, from its beginning, into another offline part of the same W&B
    run; a training never waits for W&B, nor ends with it.

    Args:
        run: of W&B.
        rows: of metrics.csv, of all steps that were ever logged.
        begin_offline: another part of the run.
        folder: of W&B's files.
    """
    from pytorch_lightning.loggers.logger import Logger

    class WandbCurves(Logger):
        name, version = "wandb", run.id

        def __init__(self) -> None:
            super().__init__()
            self.experiment, self.begun_anew, self.next_step = run, False, 0
            self.tell(self._ask_next_step)
            self._tell_all()

        def _ask_next_step(self, run: Any) -> None:
            """What lies before was sent by the part of the run that was killed, and is the same. Asked once, for every question goes to W&B's process."""
            self.next_step = run.step

        def _tell_all(self) -> None:
            for row in rows():
                self.log_metrics({name: float(value) for name, value in row.items() if name != "step" and value}, int(row["step"]))

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            assert step is not None
            # validation belongs to the steps done, one more than the number of the last: never the row of a step that W&B may know already
            step += any(name.startswith("val/") for name in metrics)
            if step >= self.next_step:
                self.tell(lambda run: run.log(dict(metrics), step=step))

        def tell(self, what: Callable[[Any], None]) -> None:
            """Calls `what` with the W&B run, as long as there is one."""
            if self.experiment is None:
                return
            try:
                what(self.experiment)
            except Exception as error:  # of whatever kind: none of them is worth a training
                if self.begun_anew:
                    log.warning("W&B failed again (%s), and gets no more of this run; all of it is in the run folder", type(error).__name__)
                    self.experiment = None
                    return
                log.warning(
                    "W&B failed (%s: %s). The run goes on, and is logged anew, offline: `wandb sync %s/latest-run` sends it later",
                    type(error).__name__,
                    (str(error).splitlines() or [""])[0],
                    folder,
                )
                self.begun_anew, self.next_step = True, 0
                self.experiment = self._begin_anew()
                self._tell_all()
                self.tell(what)

        def _begin_anew(self) -> Any:
            import wandb

            for close in (lambda: run.finish(exit_code=1), wandb.teardown):
                with suppress(Exception):
                    close()
            try:
                return begin_offline()
            except Exception as error:
                log.warning("W&B does not start again (%s), and gets no more of this run; all of it is in the run folder", type(error).__name__)
                return None

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            """The whole configuration was sent when the run began."""

    return WandbCurves()


def log_report(loggers: list[Any], report: Mapping[str, Any], page: Path, figures: Mapping[str, Path], charts: Mapping[str, Any]) -> None:
    """The evaluation into the W&B run: summary values with their intervals, a table per reference set, the page, the figures, and the curves as charts.

    Beside them, as `best/...`, the validation of the epoch whose weights were evaluated: the best of every single finding would come of many epochs.

    Args:
        loggers: from `make_loggers`.
        report: the content of report.json.
        page: report.html, which names no film.
        figures: title -> PNG without pixels of any film.
        charts: place -> (title, names of the axes, finding -> (x, y)).
    """
    validated = [row for logger in loggers if hasattr(logger, "rows") for row in logger.rows() if row.get(CHOSEN_BY)]
    best = max(validated, key=lambda row: float(row[CHOSEN_BY]), default={})

    def tell(run: Any) -> None:
        for metric, value in best.items():
            if value and (metric == "epoch" or metric.startswith("val/")):
                run.summary[f"best/{metric.removeprefix('val/')}"] = float(value)
        _log_report(run, report, page, figures, charts)

    for curves in _of_wandb(loggers):
        curves.tell(tell)


def _log_report(run: Any, report: Mapping[str, Any], page: Path, figures: Mapping[str, Path], charts: Mapping[str, Any]) -> None:
    import wandb

    for name, reference in report["reference_sets"].items():
        if reference.get("findings") is None:
            continue
        table = wandb.Table(columns=["finding", "n_pos", "n_neg", "auroc", "auroc_lo", "auroc_hi", "auprc", "auprc_lo", "auprc_hi"])
        for finding, row in reference["findings"].items():
            numbers = [row.get(metric, {}).get(end) if row.get(metric) else None for metric in ("auroc", "auprc") for end in ENDS]
            table.add_data(finding, row["n_pos"], row["n_neg"], *numbers)
            _summarise(run, f"test/{name}/auroc/{finding}", row.get("auroc"))
            _summarise(run, f"test/{name}/auprc/{finding}", row.get("auprc"))
        _summarise(run, f"test/{name}/auroc_macro", reference["macro"].get("auroc"))
        run.summary[f"test/{name}/n_images"] = reference["n_images"]
        run.log({f"test/{name}/findings": table})
        if readers := reference.get("readers"):
            run.log({f"test/{name}/readers": _readers_table(readers)})
    for place, (title, (x_name, _), lines) in charts.items():
        (xs, ys), names = zip(*lines.values(), strict=True), list(lines)
        run.log({f"charts/{place}": wandb.plot.line_series([x.tolist() for x in xs], [y.tolist() for y in ys], names, title, x_name, split_table=True)})
    run.log({f"figures/{title}": wandb.Image(str(path)) for title, path in figures.items()} | {"report": wandb.Html(str(page), inject=False)})


def log_gallery(loggers: list[Any], page: Path) -> None:
    """The page of films, where there is one.

    Args:
        loggers: from `make_loggers`.
        page: gallery.html.
    """
    import wandb

    for curves in _of_wandb(loggers) if page.is_file() else ():
        curves.tell(lambda run: run.log({"gallery": wandb.Html(str(page), inject=False)}))


def log_checkpoint(loggers: list[Any], weights: Path, protocol: Mapping[str, Any]) -> None:
    """The weights of the best epoch as an artifact of type "model".

    Args:
        loggers: from `make_loggers`.
        weights: model.safetensors.
        protocol: how they were made; kept with the artifact.
    """
    import wandb

    def send(run: Any) -> None:
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=dict(protocol))
        artifact.add_file(str(weights), policy="immutable")
        run.log_artifact(artifact)

    for curves in _of_wandb(loggers):
        curves.tell(send)


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


def log_comparison(folder: Path, place: Place, comparison: Mapping[str, Any], page: Path, pictures: Sequence[Path]) -> None:
    """A comparison of runs as a W&B run of its own: per reference set a table of both AUROCs and their difference, the pictures, and the page.

    Args:
        folder: for W&B's files.
        place: in W&B.
        comparison: the content of compare.json.
        page: compare.html.
        pictures: named as they are logged.

    Raises:
        TrackingError: W&B does not take the run.
    """
    if place.mode == "disabled":
        return
    run = _begin(folder, place, {"candidates": list(comparison["candidates"]), "may_differ": comparison["protocol"]["may_differ"]}, secrets.token_hex(4))
    import wandb

    first, *others = comparison["candidates"]
    columns = ["finding", "n_pos", "n_neg", "candidate", "auroc", "auroc_lo", "auroc_hi", "difference", "difference_lo", "difference_hi", "p", "p_holm"]
    for name, part in comparison["reference_sets"].items():
        table = wandb.Table(columns=columns)
        macro = {"macro": part["macro"] | {"n_pos": None, "n_neg": None}}
        for finding, row in {**part["findings"], **macro}.items():
            for candidate in (first, *others) if row["auroc"] else ():
                apart = row["differences"].get(candidate, {})
                numbers = [*(row["auroc"][candidate][end] for end in ENDS), *(apart.get(end) for end in (*ENDS, "p", "p_holm"))]
                table.add_data(finding, row["n_pos"], row["n_neg"], candidate, *numbers)
        run.log({f"compare/{name}": table})
        for candidate in others if part["macro"]["auroc"] else ():
            # in a key, W&B takes a dot for the end of a name
            _summarise(run, f"compare/{name}/auroc_macro/{candidate.replace('.', '_')}", part["macro"]["differences"][candidate])
    run.log({f"compare/{picture.stem}": wandb.Image(str(picture)) for picture in pictures} | {"compare/page": wandb.Html(str(page), inject=False)})
    run.finish()


def finish(loggers: list[Any], status: int) -> None:
    """Closes the W&B run; without this, two jobs of one multirun would share a run.

    Args:
        loggers: from `make_loggers`.
        status: of the program: 0, 1 for an error, 75 for a run that was interrupted and can go on. W&B marks the run with it.
    """

    def close(run: Any) -> None:
        try:
            run.finish(exit_code=status)
        except TimeoutError:
            log.warning("W&B's server does not answer; all that it has not got is sent later by: wandb sync %s/latest-run", Path(run.dir).parents[1])

    for curves in _of_wandb(loggers):
        curves.tell(close)


def _of_wandb(loggers: list[Any]) -> list[Any]:
    return [logger for logger in loggers if hasattr(logger, "tell")]
