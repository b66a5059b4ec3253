"""The only wiring: seed -> data -> fit -> predict -> evaluate. Reads from top to bottom; every stage lives in its own room.

Rooms are imported where they are used, so that a mistake in the config or the data answers before torch is loaded, and a report never loads it.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

import cxr
from cxr import resume, tracking
from cxr.atomic import claim, sync, write_whole
from cxr.cohort.catalogue import LABEL_FILES, Catalogue, count_missing, find_images, load_catalogue
from cxr.cohort.experts import FILES as EXPERT_FILES
from cxr.cohort.experts import HELD_OUT, JURY, TEST_SETS, Experts, load_experts
from cxr.cohort.experts import SOURCE as EXPERT_SOURCE
from cxr.cohort.findings import NIH_FINDINGS, UNIONS, require_findings, text_mined
from cxr.cohort.splits import Splits, make_splits
from cxr.config import (
    PROJECT,
    AuditConfig,
    Config,
    Data,
    EvaluateConfig,
    ExpertPatients,
    FuzzConfig,
    LoggerMode,
    MissingImages,
    TortureConfig,
    Trainer,
    from_plain,
    store_size,
)
from cxr.failures import explain
from cxr.resume import EVALUATION, config_sha256, file_sha256

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from cxr.data.datamodule import FilmData
    from cxr.data.store import Store
    from cxr.model.classifier import Classifier
    from cxr.model.interruption import StopRequest
    from cxr.report.reference import ReferenceSet

log = logging.getLogger(__name__)

# every finding that text mining speaks of, alone or as a union
MINED = (*NIH_FINDINGS, *UNIONS)

# a third label file, a sample on Kaggle, is a part of one of these
NIH_RELEASES = LABEL_FILES[:2]


class RunError(ValueError):
    """The study cannot be run as it was asked for."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Who is in the study, before any pixel is read."""

    catalogue: Catalogue
    experts: Experts | None
    splits: Splits


# --- the stages -------------------------------------------------------------------------------------------------------------------------------------


def train(config: Config) -> None:
    """Trains, predicts and reports, into the run folder that Hydra has made or, with `resume`, into that of the run that goes on."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.model.weights import require_weights

    started, hydra = _now(), HydraConfig.get()
    _refuse_sweep_of_processes(config.trainer, hydra.mode)
    run_dir = Path(hydra.runtime.output_dir)
    if not _is_first_process():
        logging.getLogger("cxr").setLevel(logging.WARNING)
    config, lock = _take_run(config, run_dir)
    if lock is None:
        return
    plain, facts = resume.read(run_dir)
    experiment = facts["choices"].get("experiment") or "train"

    mode = tracking.decide_mode(config.logger.mode.value)
    tracking.announce(mode)
    for key in ("airspace_opacity", "nodule_or_mass"):
        require_findings(getattr(config.mapping, key), f"mapping.{key}")
    study = load_study(config.data)
    log_study(study)
    require_weights(config.model.name, config.model.weights)

    from cxr.model.backbone import locate_weights

    locate_weights(config.model.name, config.model.weights)  # a model that does not exist is said before the films are decoded
    store = prepare_store(config.data, study.catalogue)
    check_coverage(config.data, study.catalogue, store)

    from cxr.model.checkpoint import find_checkpoint
    from cxr.model.interruption import Interrupted, StopRequest

    identity = _identity(plain, study, store)
    checkpoint = find_checkpoint(run_dir / "checkpoints")
    if checkpoint:
        resume.check_identity(checkpoint.get("identity"), identity, run_dir)
        log.info("Going on after step %d, in epoch %d", checkpoint["global_step"], checkpoint["epoch"] + 1)
    loggers = tracking.make_loggers(
        run_dir,
        mode=mode,
        first_process=_is_first_process(),
        config=plain | {"commit": facts["commit"]},
        project=config.logger.project,
        entity=config.logger.entity,
        group=config.logger.group or experiment,
        tags=[*config.logger.tags, config.model.name, config.data.name],
        run_id=facts["wandb_id"],
        may_be_offline=config.logger.mode is LoggerMode.auto,
        wait_seconds=config.logger.wait_seconds,
        describe_machine=config.logger.describe_machine,
        first_step=checkpoint["global_step"] if checkpoint else 0,
    )
    failed = True
    try:
        with StopRequest() as stop:
            trainer, classifier, data = fit(config, study, store, run_dir, loggers, stop=stop, identity=identity, go_on=checkpoint is not None)
            table = predict(trainer, classifier, data, study.splits)
            if trainer.is_global_zero:
                from cxr.report.predictions import write_predictions

                metadata = _metadata(config, experiment, study, store, trainer, classifier, run_dir, started)
                write_predictions(run_dir / "predictions.parquet", table, metadata)
                report, figures = write_report(run_dir, plain, study)
                tracking.log_report(loggers, report, figures)
        failed = False
    except Interrupted as error:
        if not _is_first_process():  # the first one speaks for all, and a status of ours would make it be killed
            return
        raise Interrupted(f"{error}; go on with: python train.py resume={run_dir}") from error
    except Exception as error:
        told = store.changed() or explain(error, run_dir)  # a process that reads from a file that was cut dies without a word
        if told:
            raise RunError(told) from error
        raise
    finally:
        tracking.finish(loggers, failed=failed)


def _take_run(config: Config, run_dir: Path) -> tuple[Config, Any]:
    """The configuration of the run in this folder, and the lock that makes the folder ours; None in its place if there is nothing left to do.

    A run that goes on has its own configuration, whatever the files under configs/ have become; what was typed beside `resume` must agree with it.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/") and choice is not None}
    plain, first = plain_config(config), _is_first_process()
    if config.resume and hydra.mode and hydra.mode.name == "MULTIRUN":
        raise RunError("resume: a multirun begins new runs; go on with one at a time, without -m")
    if config.resume == "auto":
        found = next(resume.unfinished(run_dir.parent, config_sha256(plain)), None) if first else None
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
        if facts["commit"] != _git_commit():
            log.warning("The code has changed since this run began (%s, now %s): it may not end with the same numbers.", facts["commit"], _git_commit())
    if not first:
        return config, True
    lock = claim(run_dir, "is training there")
    resume.begin(run_dir, plain, choices=choices, commit=_git_commit())
    return config, lock


def _identity(plain: dict[str, Any], study: Study, store: "Store") -> dict[str, str]:
    """What a run must find unchanged to go on, by its hash."""
    films = hashlib.sha256("\n".join([*study.splits.train.image_id, "", *study.splits.val.image_id]).encode()).hexdigest()
    return {
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


def prepare(data: Data) -> None:
    """Makes the image store, or finds it made."""
    catalogue = load_catalogue_of(data)
    there_before = (_store_folder(data) / "meta.json").is_file()
    store = prepare_store(data, catalogue)
    if there_before:
        from cxr.data.store import verify_store

        verify_store(store, _store_folder(data))
    log.info("%d images in %s", len(store.images), _store_folder(data))
    check_coverage(data, catalogue, store)


def evaluate(config: EvaluateConfig) -> None:
    """Rebuilds the report of a finished run from its files and the label files alone; torch is not needed."""
    from hydra.core.hydra_config import HydraConfig

    run_dir = Path(config.run).absolute()
    if not (run_dir / "config.yaml").is_file():
        raise RunError(f"run={config.run}: no run folder, for it holds no config.yaml")
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))  # type: ignore[assignment]
    plain["data"] |= {key: value for key, value in {"root": config.root, "expert_labels": config.expert_labels}.items() if value}
    data: Data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), plain["data"]))  # type: ignore[assignment]
    for group in EVALUATION:  # a run made before a key existed gets its default
        plain[group] = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(type(getattr(config, group))), plain.get(group, {})))
    for override in HydraConfig.get().overrides.task:  # what was typed wins over the run's, and what was not keeps it
        group, _, key = override.partition("=")[0].lstrip("+").partition(".")
        if group in EVALUATION:
            plain[group][key] = getattr(getattr(config, group), key)
    write_report(run_dir, plain, load_study(data))


def audit_labels(config: AuditConfig) -> None:
    """Labels against labels, into the run folder that Hydra has made; no film, no model and no torch is needed."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.report import audit_page, render
    from cxr.report.audit import MAX_AGREEMENT_DRAWS, audit

    started, data = _now(), config.data
    if not data.expert_labels:
        raise RunError(
            "data.expert_labels: the audit holds the text-mined labels against radiologists', so it needs the folder with "
            f"four_findings_expert_labels/ and all_findings_expert_labels/; they are at {EXPERT_SOURCE}"
        )
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    study = load_study(data)
    log_study(study)
    assert study.experts is not None
    root = Path(data.root).absolute()
    releases = [load_catalogue(root, root / name) for name in NIH_RELEASES if (root / name).is_file()]
    report = audit(study.catalogue, study.experts, study.splits, releases, n_draws=config.report.draws, seed=config.report.seed) | {
        "protocol": {
            "data": data.name,
            "splits": "official",
            "validation": _validation_in_words(data),
            "expert_validation_patients": data.expert_validation_patients.value,
            "labels": study.catalogue.labels,
            "lists_sha256": study.catalogue.lists_sha256,
            "expert_labels_sha256": {name: file_sha256(Path(data.expert_labels) / name) for name in study.experts.n_rows},
            "held_out_readers": list(HELD_OUT),
            "jury": list(JURY),
            "intervals": "95 %, by patient: Wilson adjusted for clusters; kappa by draws of patients with replacement",
            "draws": config.report.draws,
            "agreement_draws": min(config.report.draws, MAX_AGREEMENT_DRAWS),
            "seed": config.report.seed,
            "package_version": cxr.__version__,
            "commit": _git_commit(),
            "provenance": {"started": started, "reported": _now(), "host": platform.node(), "data_root": str(root)}
            | {"expert_labels": str(Path(data.expert_labels).absolute())},
        },
        "attribution": render.attribution(data.name, True),
    }
    audit_page.write(run_dir, report)
    log.info(audit_page.summary(report))
    log.info("Audit: %s", run_dir / "audit.html")


def torture(config: TortureConfig) -> None:
    """Kills trainings and prepares, into the run folder that Hydra has made; RunError unless all ended with the same bytes."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.trials import torture as trial

    folder = Path(HydraConfig.get().runtime.output_dir)
    kills = trial.torture(folder, n_train=config.train_kills, n_prepare=config.prepare_kills, seed=config.seed)
    write_whole(folder / "torture.json", (json.dumps([dataclasses.asdict(kill) for kill in kills], indent=1) + "\n").encode())
    log.info(trial.summary(kills))
    if differing := sum(not kill.same for kill in kills):
        raise RunError(f"{differing} of {len(kills)} killed runs ended with other bytes; they are in {folder}")


def fuzz(config: FuzzConfig) -> None:
    """Reads spoiled files, into the run folder that Hydra has made; RunError if one of them was not refused and not read rightly."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.trials import fuzz as trial

    folder = Path(HydraConfig.get().runtime.output_dir)
    real = Path(config.real).absolute() if config.real else None
    outcomes = trial.fuzz(folder, n_inputs=config.inputs, seed=config.seed, n_processes=config.processes, real=real)
    write_whole(folder / "fuzz.json", (json.dumps({name: vars(outcome) for name, outcome in outcomes.items()}, indent=1) + "\n").encode())
    log.info(trial.summary(outcomes))
    if failed := sum(len(outcome.failures) for outcome in outcomes.values()):
        raise RunError(f"{failed} inputs made a reader fail; they are in {folder / 'failures'}, and what happened in {folder / 'fuzz.json'}")


# --- cohort -----------------------------------------------------------------------------------------------------------------------------------------


def load_catalogue_of(data: Data) -> Catalogue:
    root = Path(data.root).absolute()
    if data.name == "mini":
        from cxr.mini import write_miniature

        write_miniature(root)
    return load_catalogue(root, Path(data.labels).absolute() if data.labels else None)


def load_study(data: Data) -> Study:
    """The tables and the splits, guarded."""
    catalogue = load_catalogue_of(data)
    experts = load_experts(Path(data.expert_labels).absolute()) if data.expert_labels else None
    splits = make_splits(
        catalogue,
        experts.labels if experts else None,
        validation=Path(data.validation).absolute() if isinstance(data.validation, str) else data.validation,
        split_seed=data.split_seed,
        keep_expert_validation=data.expert_validation_patients is ExpertPatients.keep,
    )
    return Study(catalogue, experts, splits)


def log_study(study: Study) -> None:
    """Says who trains and what that costs, in a few lines."""
    splits, facts = study.splits, study.splits.facts
    log.info("Labels: %s (release %s)", study.catalogue.labels["file"], study.catalogue.labels["release"])
    for name in ("train", "val", "test", "expert_validation"):
        rows = getattr(splits, name)
        log.info("  %-18s%7d images %7d patients", name, len(rows), rows.patient_id.nunique())
    if study.experts is None:
        log.warning("No expert labels (data.expert_labels): nothing will be evaluated against radiologists, and their patients cannot be excluded.")
    elif splits.keep_expert_validation:
        log.warning("The %d expert-validation patients stay in train and val: nothing will be reported on their set.", facts["expert_validation_patients"])
    else:
        worst = max(facts["excluded_share_of_positives"], key=lambda finding: facts["excluded_share_of_positives"][finding])
        log.info(
            "Excluding the %d expert-validation patients costs %d train_val images (%.1f %%), %d of them in the validation list, and %.1f %% of the"
            " positives of %s.",
            facts["expert_validation_patients"],
            facts["excluded_images"],
            100 * facts["excluded_share"],
            facts["excluded_validation_images"],
            100 * facts["excluded_share_of_positives"][worst],
            worst,
        )


# --- data -------------------------------------------------------------------------------------------------------------------------------------------


def _store_folder(data: Data) -> Path:
    return Path(data.store_dir).absolute() / f"{data.name}_{store_size(data)}"


def prepare_store(data: Data, catalogue: Catalogue) -> "Store":
    """The image store of every film that is there; made on first use. Where only the store was copied to, and no film, it is taken as it is."""
    from cxr.data.store import StoreError, build_store, open_store

    folder = _store_folder(data)
    paths = find_images(Path(data.root).absolute(), catalogue.images.image_id)
    if not paths:
        try:
            return open_store(folder)
        except StoreError as error:
            raise RunError(f"no image was found in {Path(data.root).absolute()} (images/, images_001/images/ ...), and {error}") from error
    log.info("Image store: %s", folder)
    return build_store(folder, paths, size=store_size(data), source=data.name, package_version=cxr.__version__)


def check_coverage(data: Data, catalogue: Catalogue, store: "Store") -> None:
    """Reports unreadable files, and refuses missing images unless they are allowed."""
    for image_id, reason in list(store.quarantine.items())[:20]:
        log.warning("unreadable: %s: %s", image_id, reason)
    missing = count_missing(catalogue, pd.Index(store.image_ids))
    if not any(missing.values()):
        return
    told = ", ".join(f"{count:,} of {len(catalogue.lists[name]):,} {name}" for name, count in missing.items())
    unreadable = f" ({len(store.quarantine)} of them unreadable, see {_store_folder(data) / 'quarantine.csv'})" if store.quarantine else ""
    if data.missing_images is MissingImages.error:
        raise RunError(f"images are missing: {told}{unreadable}. data.missing_images=allow goes on with those present and reports the coverage.")
    log.warning("Images are missing, as allowed: %s%s", told, unreadable)


def _rows(store: "Store", table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The part of the table whose films are in the store, and their rows there."""
    rows = pd.Index(store.image_ids).get_indexer(table.image_id)
    return table[rows >= 0].reset_index(drop=True), rows[rows >= 0]


def _targets(catalogue: Catalogue, table: pd.DataFrame) -> np.ndarray:
    """(n, 14) float32 text-mined targets, joined by image_id."""
    targets: np.ndarray = catalogue.images.set_index("image_id").loc[table.image_id, list(NIH_FINDINGS)].to_numpy(np.float32)
    return targets


# --- training ---------------------------------------------------------------------------------------------------------------------------------------


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
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.strategies.launchers import subprocess_script

    from cxr.data.augment import make_augment
    from cxr.data.datamodule import FilmData
    from cxr.model.checkpoint import BEST, RESUME, CheckpointFiles, ResumeCheckpoint, read_checkpoint
    from cxr.model.classifier import Classifier, NotFiniteError
    from cxr.model.interruption import watch_children
    from cxr.model.optim import WarmedUpEMA
    from cxr.model.pace import Pace, PaceBar

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for noise in (".*treespec, LeafSpec.*", ".*exists and is not empty.*", ".*does not have many workers.*", ".*Loading `train_dataloader`.*"):
        warnings.filterwarnings("ignore", noise)
    pl.seed_everything(config.seed, verbose=False)
    train_films, train_rows = _rows(store, study.splits.train)
    val_films, val_rows = _rows(store, study.splits.val)
    train_targets, val_targets = _targets(study.catalogue, train_films), _targets(study.catalogue, val_films)
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
        model={key: value for key, value in dataclasses.asdict(config.model).items() if key not in ("weights", "ema_decay")},
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
    subprocess_script._launch_process_observer = watch_children  # type: ignore[attr-defined,assignment]
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,  # type: ignore[arg-type]
        max_epochs=config.trainer.max_epochs,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        gradient_clip_val=config.trainer.gradient_clip_val or None,
        sync_batchnorm=config.trainer.sync_batchnorm,
        logger=loggers,
        plugins=[CheckpointFiles(run_dir / "model.safetensors", {"model": config.model.name, "findings": NIH_FINDINGS})],
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
    checkpoint = read_checkpoint(folder / BEST)
    classifier = Classifier(**checkpoint["hyper_parameters"])
    classifier.load_state_dict(checkpoint["state_dict"])
    return trainer, classifier, data


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


def predict(trainer: "pl.Trainer", classifier: "Classifier", data: "FilmData", splits: Splits) -> pd.DataFrame:
    """Logits of every film of val, test and expert validation that is in the store, each exactly once over all processes."""
    import torch

    wanted = {"val": splits.val, "test": splits.test}
    if not splits.keep_expert_validation:
        wanted["expert_validation"] = splits.expert_validation
    films, rows = _rows(data.store, pd.concat([table.assign(split=split) for split, table in wanted.items()]))
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


# --- reporting --------------------------------------------------------------------------------------------------------------------------------------


def write_report(run_dir: Path, plain: dict[str, Any], study: Study) -> tuple[dict[str, Any], dict[str, Path]]:
    """report.json, report.html, report.md and figures, from predictions.parquet and the label files.

    Returns:
        The content of report.json, and title -> figure.
    """
    from cxr.report import figures, render
    from cxr.report.evaluate import evaluate as evaluate_predictions
    from cxr.report.evaluate import prevalences
    from cxr.report.mapping import make_mapping
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import freeze, record_look

    path = run_dir / "predictions.parquet"
    references = reference_sets(study)
    validation = read_predictions(path, splits=("val", "expert_validation"))
    _refuse_strangers(validation.table, study.splits)
    settings, mapping = plain["report"], plain["mapping"]
    if "train_prevalence" not in validation.metadata:
        raise RunError(f"{path}: it does not say how common the findings were in training, which the mapping needs: predicted by an older version; train again")
    frozen = freeze(
        validation,
        references,
        make_mapping(
            validation,
            references.get("four_findings_validation"),
            method=mapping["method"],
            airspace_opacity=mapping["airspace_opacity"],
            nodule_or_mass=mapping["nodule_or_mass"],
            prevalence=validation.metadata["train_prevalence"],
            seed=settings["seed"],
        ),
        targets={rule: plain["operating"][rule] for rule in ("specificity", "sensitivity")},
        primary_endpoint=f"macro AUROC on {'all_findings_test' if study.experts else 'nih_test'}",
        settings={
            **{key: settings[key] for key in ("draws", "reader_draws", "seed")},
            **{key: plain["operating"][key] for key in ("rule", "prevalences")},
            "macro_available": plain["macro"]["available"],
        },
    )
    # from here on the test predictions are known, and nothing above may change without another line in that file
    looks = record_look(run_dir / "looks.jsonl", frozen, checkpoint_sha256=validation.metadata["checkpoint_sha256"])
    predictions = read_predictions(path)
    _refuse_strangers(predictions.table, study.splits)
    train_val = _with_text_mined(study, pd.concat([study.splits.train, study.splits.val]))
    sets = evaluate_predictions(predictions, references, frozen, train_val=train_val)
    report = {
        "protocol": {
            **predictions.metadata["protocol"],
            "labels": study.catalogue.labels,
            "lists_sha256": study.catalogue.lists_sha256,
            "intervals": f"95 %, {settings['draws']} draws of patients with replacement, seed {settings['seed']}, logit scale",
            "evaluation": {"sha256": frozen.sha256, **frozen.content},
            "provenance": predictions.metadata["provenance"] | {"reported": _now(), "looks": looks},
        },
        "reference_sets": sets | _unreported(study),
        "prevalences": prevalences(predictions, references, train_val),
        "attribution": render.attribution(plain["data"]["name"], study.experts is not None),
    }
    folder = run_dir / "report"
    building = run_dir / "report.partial"
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    scores = {name: frozen.mapping.scores(predictions, reference) for name, reference in references.items()}
    pictures = figures.draw(building / "figures", report, scores, references, metrics_csv=run_dir / "metrics.csv")
    write_whole(building / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    render.write_pages(building, report, pictures)
    outdated = run_dir / "report.outdated"
    shutil.rmtree(outdated, ignore_errors=True)
    if folder.exists():
        folder.rename(outdated)
    building.rename(folder)
    sync(run_dir)
    shutil.rmtree(outdated, ignore_errors=True)
    log.info(render.summary(report))
    log.info("Report: %s", folder / "report.html")
    return report, {title: folder / path.relative_to(building) for title, path in pictures.items()}


def _refuse_strangers(table: pd.DataFrame, splits: Splits) -> None:
    for split, predicted in table.groupby("split").image_id:
        strangers = predicted[~predicted.isin(getattr(splits, str(split)).image_id)]
        if len(strangers):
            raise RunError(f"{len(strangers)} predicted {split} images are not in {split} by today's files: the run was made with other splits or labels")


def reference_sets(study: Study) -> "dict[str, ReferenceSet]":
    """Every set that may be reported, complete, with what is known of its films and who read them."""
    from cxr.report.reference import ReferenceSet

    sets = {}
    for name, split, listed in (("nih_val", "val", len(study.splits.val)), ("nih_test", "test", len(study.catalogue.lists["test"]))):
        films = _with_text_mined(study, getattr(study.splits, split))
        sets[name] = ReferenceSet(name, split, False, NIH_FINDINGS, films.drop(columns=list(UNIONS)), films[list(MINED)], listed)
    if study.experts is None:
        return sets
    for name, (_, _, findings, _) in EXPERT_FILES.items():
        if name == "four_findings_validation" and study.splits.keep_expert_validation:
            continue
        labels, split = study.experts.labels[name], "test" if name in TEST_SETS else "expert_validation"
        known = _with_text_mined(study, labels[["image_id", "patient_id"]])
        films = known.drop(columns=list(MINED)).join(labels[list(findings)])
        held_out = HELD_OUT if name == "all_findings_test" else ()
        sets[name] = ReferenceSet(name, split, True, findings, films, known[list(MINED)], len(labels), study.experts.reads[name], held_out)
    return sets


def _with_text_mined(study: Study, films: pd.DataFrame) -> pd.DataFrame:
    """image_id, patient_id, view, sex, age, follow_up and every finding that text mining knows, unions too, in the order of the films."""
    images = study.catalogue.images.set_index("image_id")
    rows = images.reindex(films.image_id)
    known = {column: rows[column].to_numpy() for column in ("view", "sex", "age", "follow_up")}
    return pd.DataFrame(
        {"image_id": films.image_id.to_numpy(), "patient_id": films.patient_id.to_numpy()}
        | known
        | {finding: told.to_numpy() for finding in MINED if (told := text_mined(rows, finding)) is not None}
    )


def _unreported(study: Study) -> dict[str, Any]:
    """The expert sets without numbers, each with the reason."""
    if study.experts is None:
        return {name: {"findings": None, "reason": "no expert labels were given"} for name in EXPERT_FILES}
    if study.splits.keep_expert_validation:
        return {"four_findings_validation": {"findings": None, "reason": "trained on these patients"}}
    return {}


# --- what made the numbers --------------------------------------------------------------------------------------------------------------------------


def plain_config(config: Config) -> dict[str, Any]:
    """The whole configuration as plain values, paths made absolute where they name something on this machine."""
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)  # type: ignore[assignment]
    del plain["resume"]
    for key in ("root", "labels", "store_dir", "expert_labels"):
        if plain["data"][key]:
            plain["data"][key] = str(Path(plain["data"][key]).absolute())
    for group, key in (("data", "validation"), ("model", "weights")):
        if isinstance(plain[group][key], str) and Path(plain[group][key]).is_file():
            plain[group][key] = str(Path(plain[group][key]).absolute())
    return plain


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
            "validation": _validation_in_words(config.data),
            "expert_validation_patients": config.data.expert_validation_patients.value if study.experts else "no expert labels",
            "missing_images": config.data.missing_images.value,
            "selection": {
                "metric": "val/auroc_macro",
                "value": float(checkpoint.best_model_score),  # type: ignore[union-attr]
                "findings": monitored,
                "left_out": {f: "val lacks a positive or a negative film" for f in NIH_FINDINGS if f not in monitored},
            },
            "tta": "none",
            "model": config.model.name,
            "image_size": config.data.image_size,
            "loss": config.loss.name,
            "precision": config.trainer.precision,
            "seed": config.seed,
            "store_rule": store.meta["rule"],
            "config_sha256": config_sha256(plain),
            "package_version": cxr.__version__,
            "commit": _git_commit(),
        },
        "provenance": {
            "started": started,
            "trained": _now(),
            "host": platform.node(),
            "data_root": plain["data"]["root"],
            "store": str(_store_folder(config.data)),
        },
    }


def _validation_in_words(data: Data) -> str:
    if isinstance(data.validation, str):
        return f"list {Path(data.validation).name}, sha256 {file_sha256(Path(data.validation))}"
    return f"{data.validation:g} of the train_val patients, split seed {data.split_seed}"


def _git_commit() -> str | None:
    """The commit of this checkout, "-dirty" if it was changed since; None outside of one."""
    try:
        told = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def _is_first_process() -> bool:
    """Before torch is loaded: the variables by which launchers number their processes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
