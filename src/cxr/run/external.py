"""A finished run on another data set's films: its checkpoint predicts them, and what was fixed on its own validation films judges them."""

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf

from cxr.atomic import write_whole
from cxr.cohort.others import refuse_seen
from cxr.cohort.spaces import SPACES, OtherSet
from cxr.config import ExternalConfig, Overlap
from cxr.resume import CONFIG, EVALUATION, file_sha256
from cxr.run import RunError
from cxr.run.provenance import git_commit, now
from cxr.run.reporting import ABOUT_FILMS, freeze_evaluation, nih_reference, other_reference, pretraining, publish, read_config, with_text_mined
from cxr.run.study import Study, load_other_of, load_study, prepare_other, rows_in_store

if TYPE_CHECKING:
    from cxr.data.store import Store

log = logging.getLogger(__name__)


def external(config: ExternalConfig) -> None:
    """Tests a run on another data set, into the folder that Hydra has made."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    run_on_other_set(config, Path(hydra.runtime.output_dir), typed=hydra.overrides.task)


def run_on_other_set(config: ExternalConfig, into: Path, *, typed: Sequence[str]) -> None:
    """predictions.parquet and the report of a run on another data set.

    Args:
        config: which run, and on what.
        into: the folder, which is there.
        typed: the command line: of the evaluation, only keys that stand there differ from the run's.

    Raises:
        RunError: there is no such run, or no such data set.
        SplitError: films of patients whom the run has seen.
        OtherSetError, LabelError: of the set's files.
    """
    from cxr.report import render
    from cxr.report.evaluate import evaluate, prevalences
    from cxr.report.predictions import read_predictions, write_predictions
    from cxr.report.protocol import record_look

    started, run_dir = now(), Path(config.run).absolute()
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    if config.data.name not in SPACES:
        raise RunError(f"data={config.data.name}: the run's own report has it; choose data={' or '.join(SPACES)}")
    plain, own = read_config(run_dir, root=config.root, expert_labels=config.expert_labels)
    if not checkpoint.is_file():
        raise RunError(f"{checkpoint}: no such file. A run is tested by its checkpoint; an ensemble has none")
    for override in typed:  # what was typed wins over the run's, and what was not keeps it
        group, _, key = override.partition("=")[0].lstrip("+").partition(".")
        if group in EVALUATION:
            plain[group][key] = getattr(getattr(config, group), key)
    if plain["mapping"]["method"] == "probe":
        log.warning("mapping.method=probe: a probe speaks of the radiologists' four findings alone; findings of other sets are made by max")
        plain["mapping"]["method"] = "max"
    config.data.image_size, config.data.store_size, config.data.fit = own.image_size, own.store_size, own.fit  # the network's

    study = load_study(own)
    whole = load_other_of(config.data)
    other = refuse_seen(whole, study.splits, study.sources, exclude=config.data.overlap is Overlap.exclude)
    other = _with_metadata_of_nih(other, study)
    log.info("%s: %d films of %d patients", other.name, len(other.films), other.films.patient_id.nunique())
    tests = {
        part: other_reference(other, other.films[other.films.part == part], part, "test", adjudicated=adjudicated)
        for part, adjudicated in other.adjudicated.items()
    }
    own_validation = {"nih_val": nih_reference(study, "nih_val", [other])}
    # on the run's own validation films, before a film of the other set is opened
    frozen, validation = freeze_evaluation(run_dir, plain, own_validation | tests)

    store = prepare_other(config.data, whole, other.films)
    films, rows = rows_in_store(store, other.films)
    logits = predict_films(checkpoint, store, rows, precision=plain["trainer"]["precision"], accelerator=config.accelerator)
    table = films[["image_id", "patient_id"]].assign(split="test")
    table = table.join(pd.DataFrame(logits, columns=[f"logit_{finding}" for finding in validation.findings]))
    protocol = validation.metadata["protocol"] | {
        "external": {
            "data": other.name,
            "labels": other.labels,
            "films_left_out": other.left_out,
            "thresholds_mapping_and_calibration": "of the run, from its own validation films (nih_val); carried over unchanged",
        }
    }
    written = {"checkpoint_sha256": file_sha256(checkpoint), "store": store.meta, "protocol": protocol}
    write_predictions(into / "predictions.parquet", table, validation.metadata | written)
    asked = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    write_whole(into / CONFIG, yaml.safe_dump(plain | {"external": asked}, sort_keys=False, allow_unicode=True).encode())

    looks = record_look(run_dir / f"looks_{other.name}.jsonl", frozen, checkpoint_sha256=written["checkpoint_sha256"])
    told, settings = read_predictions(into / "predictions.parquet"), plain["report"]
    predictions, references = replace(told, table=pd.concat([told.table, validation.table], ignore_index=True)), tests | own_validation
    known = with_text_mined(study, pd.concat([study.splits.train, study.splits.val]), [other])
    scores = {name: frozen.mapping.scores(predictions, reference) for name, reference in references.items()}
    report = {
        "protocol": {
            **protocol,
            "pretraining": pretraining(plain, protocol),
            "labels": study.catalogue.labels,
            "lists_sha256": study.catalogue.lists_sha256,
            "intervals": f"95 %, {settings['draws']} draws of patients with replacement, seed {settings['seed']}, logit scale",
            "evaluation": {"sha256": frozen.sha256, **frozen.content},
            "evaluation_commit": git_commit(),
            "provenance": validation.metadata["provenance"] | {"external": started, "reported": now(), "looks": looks},
        },
        "reference_sets": evaluate(predictions, references, frozen, train_val=known),
        "prevalences": prevalences(predictions, own_validation | tests, known),
        "attribution": render.attribution(plain["data"]["name"], study.experts is not None, [*study.sources, other.name]),
    }
    publish(into, report, scores, references)


def _with_metadata_of_nih(other: OtherSet, study: Study) -> OtherSet:
    """Films that are ChestX-ray14's under another name get their view, sex, age and follow-up number from there."""
    if "nih_image_id" not in other.films:
        return other
    columns = list(ABOUT_FILMS[2:])
    known = study.catalogue.images.set_index("image_id")[columns].reindex(other.films.nih_image_id).reset_index(drop=True)
    if n_strange := int(known["view"].isna().sum()):
        raise RunError(f"{n_strange} films of {other.name} are of ChestX-ray14 and not in {study.catalogue.labels['file']}: is that complete?")
    return replace(other, films=other.films.reset_index(drop=True).assign(**{column: known[column] for column in columns}))


def predict_films(checkpoint: Path, store: "Store", rows: np.ndarray, *, precision: Any, accelerator: str) -> np.ndarray:
    """(n, 14) float32 logits of a checkpoint for rows of a store, on one device."""
    import pytorch_lightning as pl
    import torch

    from cxr.data.dataset import EvalLoader, FilmDataset
    from cxr.model.classifier import load_classifier

    classifier = load_classifier(checkpoint)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for noise in ("treespec, LeafSpec", "does not have many workers", "The `srun` command is available"):
        warnings.filterwarnings("ignore", f".*{noise}")
    log.info("Predicting %d films", len(rows))
    films = FilmDataset(store, rows, np.empty((len(rows), 0), np.float32), image_size=classifier.hparams["image_size"])
    trainer = pl.Trainer(
        accelerator=accelerator, devices=1, precision=precision, logger=False, enable_checkpointing=False, enable_progress_bar=sys.stderr.isatty()
    )
    batches = trainer.predict(classifier, dataloaders=EvalLoader(films, batch_size=64)) or []
    logits: np.ndarray = torch.cat([logits for _, logits in batches]).numpy()
    return logits
