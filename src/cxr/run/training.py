"""A training from its first second to its report; reads from top to bottom."""

import dataclasses
import hashlib
import logging
import math
import os
import platform
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import cxr
from cxr import process, resume, tracking
from cxr.atomic import claim
from cxr.cohort.findings import NIH_FINDINGS, require_findings
from cxr.config import Config, Trainer, from_plain
from cxr.failures import explain
from cxr.job import Job, JobError, Start, environment, find_job, is_first
from cxr.resume import config_sha256, file_sha256
from cxr.run import RunError
from cxr.run.provenance import git_commit, now, place_in_wandb, plain_config, validation_in_words
from cxr.run.reporting import write_report
from cxr.run.study import Study, check_coverage, load_study, log_study, prepare_store, rows_in_store, store_folder, targets_of

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from cxr.data.datamodule import FilmData
    from cxr.data.store import Store
    from cxr.model.classifier import Classifier
    from cxr.model.interruption import StopRequest

log = logging.getLogger(__name__)


def train(config: Config) -> None:
    """Trains, predicts and reports, into the run folder that Hydra has made or, with `resume`, into that of the run that goes on."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.model.interruption import Interrupted, StopRequest

    tracking.load()
    hydra = HydraConfig.get()
    _refuse_sweep_of_processes(config.trainer, hydra.mode)
    job = _find_job(config.trainer)
    run_dir = Path(hydra.runtime.output_dir)
    if not is_first():
        logging.getLogger("cxr").setLevel(logging.ERROR)  # the first one warns for all
    try:
        with StopRequest() as stop:
            _train(config, run_dir, Start(job) if job else None, stop)
    except Interrupted as error:
        if job:
            # srun ends the others as soon as one has ended, and that they were ended would become the status of them all
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not is_first():  # the first one speaks for all, and a status of ours would make it be killed
            return
        begun = (run_dir / resume.RUN).is_file()
        raise Interrupted(f"{error}; go on with: python train.py resume={run_dir}" if begun else f"{error}, before it began") from error


def _train(config: Config, run_dir: Path, start: Start | None, stop: "StopRequest") -> None:
    from cxr.model.weights import require_weights

    started = now()
    if start and not is_first() and not start.hear():
        return
    config, lock = _take_run(config, run_dir)
    if lock is None:
        if start:
            start.say(False)
        return
    plain, facts = resume.read(run_dir)
    experiment = facts["choices"].get("experiment") or "train"

    mode = tracking.decide_mode(config.logger.mode.value)
    tracking.announce(mode)
    for key in ("airspace_opacity", "nodule_or_mass", "lung_opacity"):
        require_findings(getattr(config.mapping, key), f"mapping.{key}")
    study = load_study(config.data)
    log_study(study)
    require_weights(config.model.name, config.model.weights)

    from cxr.model.backbone import locate_weights

    locate_weights(config.model.name, config.model.weights)  # a model that does not exist is said before the films are decoded
    others = {name: source.other for name, source in study.sources.items()}
    store = prepare_store(config.data, study.catalogue, others)
    check_coverage(config.data, study.catalogue, store, others)

    from cxr.model.checkpoint import find_checkpoint
    from cxr.model.interruption import Interrupted

    identity = _identity(plain, study, store)
    checkpoint = find_checkpoint(run_dir / "checkpoints")
    if checkpoint:
        resume.check_identity(checkpoint.get("identity"), identity, run_dir)
        log.info("Going on after step %d, in epoch %d", checkpoint["global_step"], checkpoint["epoch"] + 1)
    if start and is_first():
        start.say(True)
    # a job of a multirun is a number in the folder of the sweep, whose name is a time
    group, name = (f"{experiment} {run_dir.parent.name}", f"{run_dir.parent.name}/{run_dir.name}") if run_dir.name.isdigit() else (experiment, run_dir.name)
    loggers = tracking.make_loggers(
        run_dir,
        place_in_wandb(config.logger, mode=mode, group=group, name=name, tags=[config.model.name, config.data.name]),
        first_process=is_first(),
        config=plain | {"commit": facts["commit"]},
        run_id=facts["wandb_id"],
        first_step=checkpoint["global_step"] if checkpoint else 0,
    )
    status = 1
    try:
        trainer, classifier, data = fit(config, study, store, run_dir, loggers, stop=stop, identity=identity, go_on=checkpoint is not None)
        if config.look_at_test:
            table = predict(trainer, classifier, data, study)
            if trainer.is_global_zero:
                from cxr.report.predictions import write_predictions

                metadata = _metadata(config, experiment, study, store, trainer, classifier, run_dir, started)
                write_predictions(run_dir / "predictions.parquet", table, metadata)
                written = write_report(run_dir, plain, study, store=store_folder(config.data))
                tracking.log_report(loggers, *written)
                if config.logger.gallery:
                    from cxr.report.gallery import FILE as GALLERY

                    tracking.log_gallery(loggers, written.page.with_name(GALLERY))
                if config.logger.checkpoint:
                    tracking.log_checkpoint(loggers, run_dir / "model.safetensors", metadata["protocol"])
        else:
            log.info("The test sets stay closed. To open them: python train.py resume=%s look_at_test=true", run_dir)
        status = 0
    except Interrupted as error:
        status = error.exit_code
        raise
    except Exception as error:
        told = store.changed() or explain(error, run_dir)  # a process that reads from a file that was cut dies without a word
        if told:
            raise RunError(told) from error
        raise
    finally:
        tracking.finish(loggers, status)


def _take_run(config: Config, run_dir: Path) -> tuple[Config, Any]:
    """The configuration of the run in this folder, and the lock that makes the folder ours; None in its place if there is nothing left to do.

    A run that goes on has its own configuration, whatever the files under configs/ have become; what was typed beside `resume` must agree with it.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/") and choice is not None}
    plain, first = plain_config(config), is_first()
    if config.resume and hydra.mode and hydra.mode.name == "MULTIRUN":
        raise RunError("resume: a multirun begins new runs; go on with one at a time, without -m")
    if config.resume == "auto":
        candidates = resume.unfinished(run_dir.parent, config_sha256(plain)) if first else ()
        # one that was to end without a look at the test set has nothing left to do
        found = next((folder for folder in candidates if resume.read(folder)[0].get("look_at_test", True) == config.look_at_test), None)
        if found:
            log.info("Going on with %s", found)
            shutil.rmtree(run_dir)  # made by Hydra a moment ago, with nothing in it
            sys.argv[1:] = [*(argument for argument in sys.argv[1:] if not argument.startswith("resume=")), f"resume={found}"]
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.argv])
    elif config.resume:
        saved, facts = resume.read(run_dir)
        plain = resume.agree(saved, plain, list(hydra.overrides.task), facts["choices"])
        config = from_plain(Config, plain)
        if resume.is_finished(run_dir):
            log.info("This run is finished: %s", run_dir / "report/report.html")
            return config, None
        if facts["commit"] != git_commit():
            log.warning("The code has changed since this run began (%s, now %s): it may not end with the same numbers.", facts["commit"], git_commit())
    if not first:
        return config, True
    lock = claim(run_dir, "is training there")
    resume.begin(run_dir, plain, choices=choices, commit=git_commit())
    return config, lock


def _find_job(trainer: Trainer) -> Job | None:
    """The processes that SLURM or torchrun started; JobError where the configuration speaks of other machines."""
    job = find_job()
    n_nodes = job.n_nodes if job else 1
    if trainer.num_nodes not in (None, n_nodes):
        raise JobError(
            f"trainer.num_nodes={trainer.num_nodes}, and "
            + (f"{job.launcher} started this on {n_nodes}" if job else "neither SLURM nor torchrun started this: they start it on several machines")
            + " (docs/clusters.md)"
        )
    return job if job and job.n_processes > 1 else None


def _identity(plain: dict[str, Any], study: Study, store: "Store") -> dict[str, str]:
    """What a run must find unchanged to go on, by its hash."""
    films = hashlib.sha256("\n".join([*study.films("train").image_id, "", *study.films("val").image_id]).encode()).hexdigest()
    labels = {f"the labels of {name}": str(source.other.labels) for name, source in study.sources.items()}
    return labels | {
        "the configuration": config_sha256(plain),
        "the label file": study.catalogue.labels["sha256"],
        "the films of train and val": films,
        "the image store": f"{store.meta['rule']} {store.meta['size']} {store.meta['list_sha256']}",
    }


def _refuse_sweep_of_processes(trainer: Trainer, mode: Any) -> None:
    """Lightning starts the processes of a job by running its command again, and the command of a multirun is the whole sweep."""
    if mode is None or mode.name != "MULTIRUN":
        return
    asked = str(trainer.devices)
    if asked.isdigit():
        n_processes = int(asked)
    elif "," in asked:  # the numbers of devices
        n_processes = len(asked.strip(",").split(","))
    else:
        import torch

        n_processes = 1 if trainer.accelerator == "cpu" else torch.cuda.device_count()
    if n_processes > 1:
        raise RunError(
            f"a multirun cannot give {n_processes} devices to each of its jobs, for each of their processes would start the whole sweep again."
            " Give every job one device (trainer=gpu or trainer.devices=1), or loop in the shell: for seed in 0 1 2; do python train.py ... seed=$seed; done"
        )


def fit(
    config: Config,
    study: Study,
    store: "Store",
    run_dir: Path,
    loggers: list[Any],
    *,
    stop: "StopRequest",
    identity: dict[str, str],
    go_on: bool = False,
) -> "tuple[pl.Trainer, Classifier, FilmData]":
    """Trains, and returns the classifier of the best epoch.

    Args:
        config, study, store: what, and on whom.
        run_dir: for checkpoints and weights.
        loggers: Lightning's.
        stop: by which the program is asked to come to an end.
        identity: kept in the checkpoints.
        go_on: from the checkpoint in the run folder.
    """
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.strategies.launchers import subprocess_script

    from cxr.data.augment import make_augment
    from cxr.data.datamodule import FilmData
    from cxr.model.checkpoint import BEST, RESUME, CheckpointFiles, ResumeCheckpoint
    from cxr.model.classifier import Classifier, NotFiniteError, load_classifier
    from cxr.model.interruption import watch_children
    from cxr.model.optim import WarmedUpEMA
    from cxr.model.pace import Pace, PaceBar

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    noises = ["treespec, LeafSpec", "exists and is not empty", "does not have many workers", "Loading `train_dataloader`"]
    noises += ["The `srun` command is available", "all_gather is deprecated", "sync_dist=True"]  # what is logged is the same in every process
    for noise in noises:
        warnings.filterwarnings("ignore", f".*{noise}")
    pl.seed_everything(config.seed, verbose=False)
    train_films, train_rows = rows_in_store(store, study.films("train"))
    val_films, val_rows = rows_in_store(store, study.films("val"))
    train_targets, val_targets = targets_of(study, train_films), targets_of(study, val_films)
    monitored, left_out = monitored_findings(val_targets)
    if left_out:
        log.warning("The checkpoint is chosen without %s: both a positive and a negative film are needed in val.", ", ".join(left_out))

    recipe = {item.name: getattr(config.augment, item.name) for item in dataclasses.fields(config.augment) if item.name != "enabled"}
    data = FilmData(
        store,
        train_rows=train_rows,
        train_targets=train_targets,
        val_rows=val_rows,
        val_targets=val_targets,
        image_size=config.data.image_size,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        augment=make_augment(image_size=config.data.image_size, seed=config.seed, **recipe) if config.augment.enabled else None,
        seed=config.seed,
    )
    n_batches = len(train_rows) // config.data.batch_size
    classifier = Classifier(
        findings=list(NIH_FINDINGS),
        monitored=monitored,
        prevalence=[float(p) for p in np.nanmean(train_targets, axis=0)],
        model={key: value for key, value in dataclasses.asdict(config.model).items() if key not in ("weights", "ema_decay", "refit_c")},
        loss=dataclasses.asdict(config.loss),
        optim=dataclasses.asdict(config.optim),
        image_size=config.data.image_size,
        seed=config.seed,
        total_steps=config.trainer.max_epochs * math.ceil(n_batches / config.trainer.accumulate_grad_batches),
        max_nonfinite_steps=config.trainer.max_nonfinite_steps,
        weights="none" if go_on else config.model.weights,
    )
    watched = sys.stderr.isatty()  # a log file gets a line per epoch instead of a bar
    log_every = min(50, n_batches)
    folder = run_dir / "checkpoints"
    best = ModelCheckpoint(
        dirpath=folder, filename=BEST.removesuffix(".ckpt"), monitor="val/auroc_macro", mode="max", save_top_k=1, enable_version_counter=False
    )
    job = find_job()
    if job:
        if config.trainer.accelerator != "cpu" and 0 < torch.cuda.device_count() < job.n_per_node:
            raise RunError(
                f"{job.launcher} started {job.n_per_node} processes on this machine, and each sees {torch.cuda.device_count()} of its GPUs: every process must"
                " see them all (SLURM: --gpus-per-node, not --gpus-per-task), and have one"
            )
        log.info("%d processes, started by %s; machines: %d", job.n_processes, job.launcher, job.n_nodes)
    files = CheckpointFiles(run_dir / "model.safetensors", {"model": config.model.name, "findings": NIH_FINDINGS})
    subprocess_script._launch_process_observer = watch_children  # type: ignore[attr-defined,assignment]
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=job.n_per_node if job else config.trainer.devices,
        num_nodes=job.n_nodes if job else 1,
        strategy="ddp" if job and job.n_processes > 1 else config.trainer.strategy,
        precision=config.trainer.precision,  # type: ignore[arg-type]
        max_epochs=config.trainer.max_epochs,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        gradient_clip_val=config.trainer.gradient_clip_val or None,
        sync_batchnorm=config.trainer.sync_batchnorm,
        logger=loggers,
        plugins=[files, environment(job)],
        deterministic=config.deterministic,
        callbacks=[
            best,
            ResumeCheckpoint(folder, every_minutes=config.trainer.checkpoint_every_minutes, stop=stop, identity=identity),
            *([PaceBar(refresh_rate=log_every)] if watched else []),  # showing the loss means waiting for the device
            *([WarmedUpEMA(config.model.ema_decay)] if config.model.ema_decay else []),
            Pace(config.data.batch_size),
        ],
        use_distributed_sampler=False,  # ours know their rank, and repeat no film
        num_sanity_val_steps=0,
        enable_progress_bar=watched,
        log_every_n_steps=log_every,
        enable_model_summary=False,
        default_root_dir=run_dir,
    )
    log.info("Training %s on %d films, validating on %d", config.model.name, len(train_rows), len(val_rows))
    try:
        with process.shared_with_children():
            trainer.fit(classifier, datamodule=data, ckpt_path=folder / RESUME if go_on else None, weights_only=True)
    except NotFiniteError as error:
        if not error.films:
            raise
        films = ", ".join(train_films.image_id.iloc[error.films])
        raise NotFiniteError(
            f"{error}. It began with the batch of {films}. Look at these films and their targets, or lower optim.lr. The last checkpoint is from before:"
            f" {folder / RESUME}"
        ) from error

    log.info("Best epoch: val/auroc_macro %.4f", float(best.best_model_score or float("nan")))
    if config.model.refit_c:
        from cxr.run.last_layer import refit_last_layer

        if trainer.is_global_zero:
            refit_last_layer(folder / BEST, files, data, c=config.model.refit_c, device=trainer.strategy.root_device)
        trainer.strategy.barrier()
    return trainer, load_classifier(folder / BEST), data


def monitored_findings(val_targets: np.ndarray) -> tuple[list[str], list[str]]:
    """The findings whose validation AUROC exists, fixed before training, and those left out.

    Args:
        val_targets: (n, 14), NaN where unknown.
    """
    both = (val_targets == 1).any(axis=0) & (val_targets == 0).any(axis=0)
    monitored = [finding for finding, use in zip(NIH_FINDINGS, both, strict=True) if use]
    if len(monitored) < 2:
        raise RunError(f"the {len(val_targets)} validation films hold both classes of {len(monitored)} findings only: raise data.validation")
    return monitored, [finding for finding in NIH_FINDINGS if finding not in monitored]


def predict(trainer: "pl.Trainer", classifier: "Classifier", data: "FilmData", study: Study) -> pd.DataFrame:
    """Logits of every film of val, test and expert validation that is in the store, each exactly once over all processes."""
    import torch

    wanted = {split: study.films(split) for split in ("val", "test", "expert_validation")}
    if study.splits.keep_expert_validation:
        del wanted["expert_validation"]
    films, rows = rows_in_store(data.store, pd.concat([table.assign(split=split) for split, table in wanted.items()]))
    log.info("Predicting %d films", len(films))
    batches = trainer.predict(classifier, dataloaders=data.predict_loader(rows)) or []
    parts: list[Any] = [torch.cat([batch[part] for batch in batches]).numpy() if batches else None for part in (0, 1)]
    if trainer.world_size > 1:
        gathered: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, parts)
        parts = [np.concatenate([shard[part] for shard in gathered if shard[part] is not None]) for part in (0, 1)]
    index, logits = parts
    if not np.array_equal(np.sort(index), np.arange(len(films))):
        raise RunError(f"{len(films)} films were to be predicted once each, and {len(index)} predictions came of {len(set(index))} films")
    table: pd.DataFrame = films.iloc[index].reset_index(drop=True)
    table = table.join(pd.DataFrame(logits.astype(np.float32), columns=[f"logit_{finding}" for finding in NIH_FINDINGS]))
    return table.sort_values(["split", "image_id"], ignore_index=True)


def weights_facts(weights: str) -> dict[str, str]:
    """Which weights a training begins with: "none", "pretrained", or the file's name and hash."""
    return {"name": Path(weights).name} | ({"sha256": file_sha256(Path(weights))} if Path(weights).is_file() else {})


def _metadata(
    config: Config,
    experiment: str,
    study: Study,
    store: "Store",
    trainer: "pl.Trainer",
    classifier: "Classifier",
    run_dir: Path,
    started: str,
) -> dict[str, Any]:
    """What predictions.parquet says of its own making."""
    plain = plain_config(config)
    checkpoint = trainer.checkpoint_callback
    monitored = classifier.hparams["monitored"]
    return {
        "package_version": cxr.__version__,
        "checkpoint_sha256": file_sha256(run_dir / "checkpoints" / "best.ckpt"),
        "config_sha256": config_sha256(plain),
        "store": store.meta,
        "train_prevalence": dict(zip(NIH_FINDINGS, classifier.hparams["prevalence"], strict=True)),
        "protocol": {
            "experiment": experiment,
            "data": config.data.name,
            "splits": "official",
            "validation": validation_in_words(config.data),
            "expert_validation_patients": config.data.expert_validation_patients.value if study.experts else "no expert labels",
            "missing_images": config.data.missing_images.value,
            "selection": {
                "metric": "val/auroc_macro",
                "value": float(checkpoint.best_model_score),  # type: ignore[union-attr]
                "findings": monitored,
                "last_layer": f"made again, C={config.model.refit_c:g}" if config.model.refit_c else "as trained",
                "left_out": {f: "val lacks a positive or a negative film" for f in NIH_FINDINGS if f not in monitored},
            },
            "tta": "none",
            "sources": {name: source.other.labels for name, source in study.sources.items()},
            "model": config.model.name,
            "weights": weights_facts(plain["model"]["weights"]),
            "image_size": config.data.image_size,
            "loss": config.loss.name,
            "precision": config.trainer.precision,
            "seed": config.seed,
            "store_rule": store.meta["rule"],
            "config_sha256": config_sha256(plain),
            "package_version": cxr.__version__,
            "commit": git_commit(),
        },
        "provenance": {
            "started": started,
            "trained": now(),
            "host": platform.node(),
            "data_root": plain["data"]["root"],
            "store": str(store_folder(config.data)),
        },
    }
