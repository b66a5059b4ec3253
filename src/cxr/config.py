"""Every key of the configuration: its type, its default, its unit; and the one way an entry point starts.

A key is added here and nowhere else. Files under configs/ only set values; a key that is not here is an error wherever it is written.
"""

import difflib
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union

from omegaconf import MISSING

from cxr import failures, job, process, resume

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"


class ConfigError(ValueError):
    """A value that its type allows and its meaning does not."""


def key(default: Any, explanation: str) -> Any:
    """A configuration key: its default and the sentence that --help prints."""
    metadata = {"help": explanation}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


class MissingImages(Enum):
    error = "error"
    allow = "allow"


class ExpertPatients(Enum):
    exclude = "exclude"
    keep = "keep"


class Fit(Enum):
    pad = "pad"
    crop = "crop"


class DicomWindow(Enum):
    voi = "voi"
    full = "full"


class Uncertain(Enum):
    ignore = "ignore"
    zeros = "zeros"
    ones = "ones"


class Unmentioned(Enum):
    zeros = "zeros"
    ignore = "ignore"


class Overlap(Enum):
    refuse = "refuse"
    exclude = "exclude"


class LoggerMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class Source:
    """A further data set to train on, if it has a root."""

    root: str | None = None
    uncertain: Uncertain = Uncertain.ignore
    unmentioned: Unmentioned = Unmentioned.zeros
    overlap: Overlap = Overlap.refuse


@dataclass
class Sources:
    chexpert: Source = field(default_factory=Source)
    mimic: Source = field(default_factory=Source)
    rsna: Source = field(default_factory=Source)


@dataclass
class Data:
    name: str = key(
        MISSING,
        "cxr14 (the real files) or mini (a miniature, drawn on first use); to test on: chexpert, mimic, rsna or tbportals (docs/other_sets.md); names the image"
        " store",
    )
    root: str = key(MISSING, "folder with the label file, train_val_list.txt, test_list.txt and the films as NIH ships them, archives unopened or unpacked")
    labels: str | None = key(None, "label file; null takes Data_Entry_2017_v2020.csv in root, else Data_Entry_2017.csv")
    image_size: int = key(224, "side of a film at the network's input, pixels")
    store_size: int | None = key(None, "side of a stored film, pixels; null is 8/7 of image_size, so that the crop has room to move")
    store_dir: str = key(str(PROJECT / "stores"), "folder in which the image store lies, as <name>_<store_size>; put it on a fast local disk")
    fit: Fit = key(Fit.pad, "a film that is not square: pad adds black, crop keeps the square in the middle")
    dicom_window: DicomWindow = key(
        DicomWindow.voi, "greys of a DICOM film: voi takes its first VOI table or window, where it has one; full goes from its darkest pixel to its brightest"
    )
    missing_images: MissingImages = key(MissingImages.error, "error: every listed image must be there; allow: go on with those present and report coverage")
    num_workers: int | None = key(
        None, "processes that augment batches, for each training process; null is a core for each but one: at most 8 for a GPU, 1 for a CPU"
    )
    batch_size: int = key(64, "films per step over all devices together")
    validation: Union[float, str] = key(0.1, "fraction of train_val patients held out, or a path: a list of images")  # noqa: UP007
    split_seed: int = key(0, "which patients are held out; apart from seed, so that seeds of one config share their validation set")
    expert_labels: str | None = key(None, "folder with four_findings_expert_labels/ and all_findings_expert_labels/; null goes without")
    expert_validation_patients: ExpertPatients = key(
        ExpertPatients.exclude, "exclude the 835 patients of the expert validation set from train and val, or keep"
    )
    sources: Sources = field(
        default_factory=Sources,
        metadata={
            "help": "further data sets to train on, beside cxr14: data.sources.chexpert.root=/path, mimic, rsna; each has its own uncertain, unmentioned and "
            "overlap"
        },
    )
    uncertain: Uncertain = key(Uncertain.ignore, "CheXpert and MIMIC, where a report is uncertain (-1): ignore (unknown), zeros or ones")
    unmentioned: Unmentioned = key(Unmentioned.zeros, "CheXpert and MIMIC, where a report does not mention it (empty): zeros, as in ChestX-ray14, or ignore")
    overlap: Overlap = key(Overlap.refuse, "films of patients whom the run has seen (RSNA's films are NIH's): refuse, or exclude all of theirs")
    country: str | None = key(None, "TB Portals: films of this country alone, as the table spells it; null takes all")


@dataclass
class Model:
    name: str = key(MISSING, "any timm model name")
    weights: str = key("none", "none, pretrained (timm's, from the hub or its cache), or the path of a file of weights")
    drop_rate: float = key(0.0, "dropout before the last layer, probability")
    drop_path_rate: float = key(0.0, "stochastic depth, probability")
    freeze_epochs: int = key(0, "epochs at the start in which only the last layer learns")
    ema_decay: float = key(0.0, "exponential moving average of the weights, per step, warmed up; 0 is none")
    refit_c: float = key(
        0.0, "the last layer is made again on the best epoch's features, by ridge logistic regression of this inverse strength (scikit-learn's C); 0: it stays"
    )
    channels_last: bool = key(True, "memory layout of convolutions")
    compile: bool = key(False, "torch.compile: minutes of warm-up, then faster")


@dataclass
class Augment:
    enabled: bool = key(True, "false cuts the centre of every film out")
    affine_p: float = key(0.5, "how often a film is rotated, scaled and shifted, probability")
    rotate_degrees: float = key(7.0, "at most so far to either side")
    scale: float = key(0.1, "at most this fraction larger or smaller")
    translate: float = key(0.05, "at most this fraction of the side")
    brightness: float = key(0.1, "at most this fraction up or down")
    contrast: float = key(0.1, "at most this fraction up or down")
    horizontal_flip_p: float = key(0.0, "how often left and right are exchanged, probability; it moves the heart to the other side")


@dataclass
class Loss:
    name: str = MISSING


@dataclass
class BCE(Loss):
    name: str = key("bce", "binary cross-entropy")


@dataclass
class WeightedBCE(Loss):
    name: str = key("weighted_bce", "binary cross-entropy, positives weighing (1 - prevalence) / prevalence, at most 100")


@dataclass
class Focal(Loss):
    name: str = key("focal", "Lin et al. 2017")
    gamma: float = key(2.0, "focusing on hard films")


@dataclass
class Asymmetric(Loss):
    name: str = key("asymmetric", "Ridnik et al. 2021")
    gamma: float = key(1.0, "focusing on hard positives")
    gamma_negative: float = key(4.0, "focusing on hard negatives")
    clip: float = key(0.05, "negatives below this probability cost nothing")


@dataclass
class Optim:
    name: str = MISSING
    lr: float = key(3e-4, "learning rate at its peak")
    weight_decay: float = key(0.01, "of weights; norms and biases are never decayed")
    layer_decay: float = key(1.0, "each layer learns this much slower than the one above it; 1 is none")
    warmup_steps: int = key(100, "optimiser steps of linear warm-up")
    final_fraction: float = key(0.01, "of the learning rate, at the end of the cosine")


@dataclass
class AdamW(Optim):
    name: str = key("adamw", "Loshchilov & Hutter 2019")
    betas: list[float] = key([0.9, 0.999], "decay of the first and second moment")


@dataclass
class SGD(Optim):
    name: str = key("sgd", "with Nesterov momentum")
    lr: float = key(0.05, "learning rate at its peak")
    momentum: float = key(0.9, "Nesterov")


@dataclass
class Trainer:
    max_epochs: int = key(20, "passes over the training films")
    accelerator: str = key("auto", "auto, cpu or gpu")
    devices: Union[int, str] = key("auto", "how many devices of this machine, or auto; SLURM and torchrun start a process for each, and their number counts")  # noqa: UP007
    num_nodes: int | None = key(None, "machines; null is as many as SLURM or torchrun started this on, and another number than theirs is refused")
    strategy: str = key("auto", "auto or ddp")
    precision: str = key("32-true", "32-true, bf16-mixed or 16-mixed")
    accumulate_grad_batches: int = key(1, "steps whose gradients are averaged before the weights move")
    gradient_clip_val: float = key(1.0, "largest norm of the gradient; 0 is none")
    sync_batchnorm: bool = key(False, "BatchNorm statistics over all devices")
    checkpoint_every_minutes: float = key(
        10.0, "how far apart checkpoints to go on from are within an epoch; the end of every epoch has its own; 0 is every step"
    )
    max_nonfinite_steps: int = key(3, "steps in a row whose loss may be no finite number before the training stops")


@dataclass
class Logger:
    mode: LoggerMode = key(LoggerMode.auto, "W&B: auto is online where a key is configured, else offline; WANDB_MODE wins")
    project: str = key("cxr", "W&B project")
    entity: str | None = key(None, "W&B team or user; null is your default")
    group: str | None = key(None, "W&B group; null is the experiment's name")
    job_type: str = key("train", "W&B job type")
    tags: list[str] = key([], "W&B tags")
    checkpoint: bool = key(False, "send W&B the weights of the best epoch (model.safetensors) as an artifact")
    gallery: bool = key(False, "send W&B the page of report.gallery=true too: films of patients, their names, views, ages and sexes")
    wait_seconds: float = key(120.0, "how long the start and the end of a run wait for W&B's server; what it has not got by then, wandb sync sends later")
    describe_machine: bool = key(False, "send W&B the machine's name, the command line and folders too (docs/privacy.md)")


@dataclass
class Macro:
    available: bool = key(False, "take the mean over the findings that the present films allow, flagged, instead of none at all")


@dataclass
class ReferenceMapping:
    """How the model's 14 findings speak of the findings that only radiologists labelled."""

    method: str = key(
        "max",
        "max (of logits less their training log-odds), max_raw (of logits), noisy_or, or probe (logistic regression from all logits, fitted on the "
        "radiologists' validation set)",
    )
    airspace_opacity: list[str] = key(["Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"], "model findings that stand for it")
    nodule_or_mass: list[str] = key(["Nodule", "Mass"], "model findings that stand for it")
    lung_opacity: list[str] = key(
        ["Atelectasis", "Consolidation", "Edema", "Infiltration", "Mass", "Nodule", "Pneumonia"], "model findings that stand for CheXpert's Lung Opacity"
    )
    tuberculosis: list[str] = key([], "model findings that stand for it (TB Portals); none: not predicted")
    cavity: list[str] = key([], "model findings that stand for it (TB Portals); none: not predicted")


@dataclass
class Operating:
    """Thresholds, frozen on validation films; all three rules are reported."""

    rule: str = key("specificity", "which operating point is drawn and stands in the tables: specificity, sensitivity or youden")
    specificity: float = key(0.9, "aimed at by the first rule")
    sensitivity: float = key(0.9, "aimed at by the second rule")
    prevalences: list[float] = key([0.01, 0.05, 0.2], "for which PPV and NPV are told, fractions")


@dataclass
class Draws:
    draws: int = key(2000, "patient-bootstrap draws behind every interval")
    reader_draws: int = key(10000, "patient-bootstrap draws behind every comparison of model and reader")
    seed: int = key(0, "of those draws")


@dataclass
class Report(Draws):
    shortcuts: bool = key(
        False, "also tell how well the network's features predict view, sex and age; they are made of validation and test films and kept (features.npz)"
    )
    gallery: bool = key(
        False, "also make report/gallery.html: the most confident errors by radiologists' labels, with heat maps and votes; it holds films and stays here"
    )
    gallery_films: int = key(4, "at most, of each finding's misses and of its false alarms")


@dataclass
class Config:
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = MISSING
    optim: Optim = MISSING
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    macro: Macro = field(default_factory=Macro)
    mapping: ReferenceMapping = field(default_factory=ReferenceMapping)
    operating: Operating = field(default_factory=Operating)
    report: Report = field(default_factory=Report)
    seed: int = key(0, "of weights, order and augmentation")
    deterministic: bool = key(False, "the same bytes from every run of a config on one machine; slower on a GPU (on a CPU runs are so anyway)")
    resume: str | None = key(None, "a run folder to go on with, or auto: the newest unfinished run of the same config, else a new one")
    look_at_test: bool = key(
        True,
        "false ends when the best epoch is known: no test film is opened, nothing predicted or reported; resume=<run folder> look_at_test=true does it later",
    )


# groups whose options differ in keys
VARIANTS: dict[str, tuple[Any, ...]] = {"loss": (BCE, WeightedBCE, Focal, Asymmetric), "optim": (AdamW, SGD)}


@dataclass
class Sweep:
    """How a study searches, on validation films alone."""

    study: str = key(MISSING, "its name: of its folder, of its W&B group, and of the experiment file that it ends in; the default is the sweep's")
    space: list[str] = key(
        MISSING,
        "what is searched, as Hydra writes it: optim.lr=tag(log, interval(1e-4, 1e-2)), loss=choice(bce, focal), trainer.max_epochs=range(5, 20, 5)",
    )
    trials: int = key(20, "trained to the end or pruned when the study ends, by all workers together; those that failed or were lost do not count")
    seed: int = key(0, "of the sampler")
    startup_trials: int = key(10, "drawn at random before the sampler (TPE) begins to learn from the trials before")
    prune: bool = key(True, "end a trial whose best epoch so far is worse than the median of the earlier trials at the same epoch")
    prune_after_trials: int = key(5, "trials that no other is held against before pruning begins")
    prune_after_epochs: int = key(3, "epochs that every trial may have")
    storage: str | None = key(None, "URL of a database (postgresql://...), for workers without a common disk; null is journal.log in the study's folder")
    experiments: str = key(str(CONFIGS / "experiment"), "folder into which the best trial is written as <study>_best.yaml")


@dataclass
class SweepConfig(Config):
    """What scripts/sweep.py takes: what train.py takes, for every trial, and how to search."""

    sweep: Sweep = field(default_factory=Sweep)


@dataclass
class SeedsConfig(Config):
    """What scripts/seeds.py takes: what train.py takes, for every seed, and which seeds."""

    n: int = key(5, "seeds")
    first: int = key(0, "of them")


@dataclass
class PrepareConfig:
    """What scripts/prepare.py takes."""

    data: Data = field(default_factory=Data)


@dataclass
class DownloadConfig:
    """What scripts/download.py takes: where from, which films, and how to go about it."""

    source: str = key(MISSING, "gcs (Google's bucket), dicomweb (Google's DICOM store, or any PACS), bigquery (the label table) or expert_labels (a check)")
    images: str = key(
        "expert",
        "expert (all films with radiologists' labels), four_findings_validation, four_findings_test, all_findings_test, train_val, test, all, "
        "a number (the first so many), or the path of a list",
    )
    folder: str | None = key(None, "where the films go; null is images/ in data.root")
    workers: int = key(8, "films at a time")
    attempts: int = key(6, "at one film, with waits that double from first_wait_seconds to a minute")
    first_wait_seconds: float = key(1.0, "after a first failure, seconds")
    give_up_minutes: float = key(5.0, "without a single byte from anywhere, minutes; then it ends")
    billing_project: str | None = key(None, "gcs, bigquery: the Google Cloud project that pays")
    format: str = key("png", "gcs: png (NIH's own files) or dicom")
    bucket: str = key("gcs-public-data--healthcare-nih-chest-xray", "gcs: or another that is laid out like it")
    url: str | None = key(None, "dicomweb: of the server; null is NIH's store in Google's Cloud Healthcare API")
    google_credentials: bool | None = key(None, "dicomweb: sign in with Google's application-default credentials; null does so at Google's address alone")
    query: dict[str, str] = key({}, "dicomweb: QIDO-RS filters, {Modality:DX,StudyDate:20240101-20241231}; empty takes all")
    table: str = key("chc-nih-chest-xray.nih_chest_xray.nih_chest_xray", "bigquery: or another of its columns")
    data: Data = field(default_factory=Data)


@dataclass
class DicomHeadersConfig:
    """What scripts/dicom_headers.py takes."""

    folder: str = key(MISSING, "of DICOM films, searched with its subfolders")
    output: str = key(MISSING, "the table to write, .csv; one that is there is not overwritten")
    image_id: str = key("stem", "what names an image: stem (NAME.dcm is NAME.png) or SOPInstanceUID")
    salt: str | None = key(None, "a secret: patients' numbers then become the beginning of sha256(salt + number), 16 hexadecimal digits")


@dataclass
class EvaluateConfig:
    """What scripts/evaluate.py takes: a run folder; where its labels lie now, if they moved; and what of the evaluation to change, else as in the run."""

    run: str = key(MISSING, "a run folder with config.yaml and predictions.parquet")
    root: str | None = key(None, "the data set's folder, if it moved since the run")
    expert_labels: str | None = key(None, "the expert labels' folder, if it moved since the run")
    store_dir: str | None = key(None, "the folder of image stores, if it moved since the run; read for report.gallery and report.shortcuts alone")
    macro: Macro = field(default_factory=Macro)
    mapping: ReferenceMapping = field(default_factory=ReferenceMapping)
    operating: Operating = field(default_factory=Operating)
    report: Report = field(default_factory=Report)


@dataclass
class ExternalConfig:
    """What scripts/external.py takes: a finished run, the data set to test it on, and what of the evaluation to change, else as in the run."""

    run: str = key(MISSING, "the folder of a finished run, with its checkpoint")
    root: str | None = key(None, "the folder of the run's own data set, if it moved since the run")
    expert_labels: str | None = key(None, "the expert labels' folder, if it moved since the run")
    accelerator: str = key("auto", "auto, cpu or gpu")
    data: Data = field(default_factory=Data)
    macro: Macro = field(default_factory=Macro)
    mapping: ReferenceMapping = field(default_factory=ReferenceMapping)
    operating: Operating = field(default_factory=Operating)
    report: Draws = field(default_factory=Draws)


@dataclass
class LocalizeConfig:
    """What scripts/localize.py takes: a finished run, and how its heat maps are made and judged."""

    run: str = key(MISSING, "the folder of a finished run, with its checkpoint")
    root: str | None = key(None, "the data set's folder, if it moved since the run")
    expert_labels: str | None = key(None, "the expert labels' folder, if it moved since the run")
    accelerator: str = key("auto", "auto, cpu or gpu")
    method: str = key("auto", "of heat maps: gradcam, hirescam, or auto: hirescam for transformers, gradcam for all others")
    batch_size: int = key(32, "films at a time; changes no number")
    seed: int = key(0, "which half of the patients the heat thresholds are chosen on, and where the random points fall")
    report: Report = field(default_factory=Report)


@dataclass
class CompareConfig:
    """What scripts/compare.py takes."""

    runs: list[str] = key(MISSING, "finished run folders, two or more: [A,B]; runs that differ in their seed alone are one candidate")
    may_differ: list[str] = key([], "fields of the protocol that may differ between them, as the refusal names them")
    intersection: bool = key(False, "compare on the films that all runs predicted, where they predicted different ones")
    root: str | None = key(None, "the data set's folder, if it moved since the runs")
    expert_labels: str | None = key(None, "the expert labels' folder, if it moved since the runs")
    report: Draws = field(default_factory=Draws)
    logger: Logger = field(default_factory=lambda: Logger(job_type="compare"))


@dataclass
class EnsembleConfig:
    """What scripts/ensemble.py takes."""

    runs: list[str] = key(MISSING, "finished run folders, two or more: [A,B]")
    root: str | None = key(None, "the data set's folder, if it moved since the runs")
    expert_labels: str | None = key(None, "the expert labels' folder, if it moved since the runs")


@dataclass
class PredictConfig:
    """What scripts/predict.py takes: a trained model, films, and where to."""

    checkpoint: str | None = key(None, "a run folder, its checkpoints/best.ckpt, or what scripts/export.py wrote")
    images: Any = key(None, "a film (PNG, JPEG or DICOM), a folder, searched with all folders in it, a pattern (films/*.png), or several: [a.png,b.dcm]")
    output: str = key("predictions.csv", "the table: .csv or .parquet; what lies beside it has its name and more")
    heat_maps: bool = key(
        False, "an overlay for each finding that a film is called with (of a model without operating points, the finding that scores highest)"
    )
    batch_size: int = key(64, "films at a time")
    accelerator: str = key("auto", "auto, cpu or gpu")
    check: bool = key(False, "no films: hold this installation, or a checkpoint that was exported, against predictions that are known")


@dataclass
class PageConfig:
    """What scripts/page.py takes."""

    checkpoint: str = key(MISSING, "a run folder, its checkpoints/best.ckpt, or what scripts/export.py wrote")
    accelerator: str = key("auto", "auto, cpu or gpu")
    host: str = key("127.0.0.1", "address to listen on; any other than this lets other machines in, without a password")
    port: int = key(7860, "to listen on")


@dataclass
class ExportConfig:
    """What scripts/export.py takes."""

    run: str = key(MISSING, "a run folder, or its checkpoints/best.ckpt")
    output: str = key(MISSING, "the folder to be made: model.safetensors, config.json, model.onnx, README.md")


@dataclass
class AuditConfig:
    """What scripts/audit_labels.py takes: where the labels lie, and the draws behind the intervals."""

    data: Data = field(default_factory=Data)
    report: Draws = field(default_factory=Draws)


@dataclass
class SimulateConfig:
    """What scripts/simulate.py takes."""

    cohorts: int = key(1000, "drawn in every world")
    draws: int = key(500, "patient-bootstrap draws in each")
    seed: int = key(0, "of the whole")
    processes: int = key(2, "side by side; changes no number")


@dataclass
class TortureConfig:
    """What scripts/torture.py takes."""

    train_kills: int = key(30, "of trainings")
    prepare_kills: int = key(20, "of scripts/prepare.py")
    seed: int = key(0, "of the moments")


@dataclass
class FuzzConfig:
    """What scripts/fuzz.py takes."""

    inputs: int = key(20_000, "spoiled, over all readers")
    seed: int = key(0, "of the spoiling")
    processes: int = key(2, "side by side; changes no input")
    real: str | None = key(None, "folder with real files to spoil too (data/cxr14_1024 and data/google_expert_labels in it); null takes the miniature's alone")


CHOICES = {
    "source": ("gcs", "dicomweb", "bigquery", "expert_labels"),
    "format": ("png", "dicom"),
    "image_id": ("stem", "SOPInstanceUID"),
    "data.name": ("cxr14", "mini", "chexpert", "mimic", "rsna", "tbportals"),
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "accelerator": ("auto", "cpu", "gpu"),
    "trainer.strategy": ("auto", "ddp"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed"),
    "mapping.method": ("max", "max_raw", "noisy_or", "probe"),
    "operating.rule": ("specificity", "sensitivity", "youden"),
    "method": ("auto", "gradcam", "hirescam"),
}
# key -> (smallest, largest) that make sense
RANGES = {
    "data.image_size": (16, 4096),
    "data.store_size": (16, 4096),
    "data.batch_size": (1, 2**20),
    "batch_size": (1, 2**20),
    "port": (1, 65535),
    "data.num_workers": (0, 1024),
    "model.drop_rate": (0, 0.99),
    "model.drop_path_rate": (0, 0.99),
    "model.ema_decay": (0, 0.999999),
    "model.freeze_epochs": (0, 10**6),
    "model.refit_c": (0, 1e6),
    "augment.affine_p": (0, 1),
    "augment.scale": (0, 0.9),
    "augment.translate": (0, 0.9),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.horizontal_flip_p": (0, 1),
    "optim.lr": (0, 100),
    "optim.weight_decay": (0, 100),
    "optim.layer_decay": (1e-6, 1),
    "optim.warmup_steps": (0, 10**9),
    "optim.final_fraction": (0, 1),
    "trainer.max_epochs": (1, 10**6),
    "trainer.num_nodes": (1, 10**6),
    "trainer.accumulate_grad_batches": (1, 10**6),
    "trainer.gradient_clip_val": (0, 1e9),
    "trainer.checkpoint_every_minutes": (0, 1e6),
    "trainer.max_nonfinite_steps": (1, 10**6),
    "operating.specificity": (0.01, 0.999),
    "operating.sensitivity": (0.01, 0.999),
    "report.draws": (100, 10**6),
    "report.reader_draws": (100, 10**6),
    "report.gallery_films": (1, 100),
    "sweep.trials": (1, 10**6),
    "sweep.seed": (0, 2**32 - 1),
    "sweep.startup_trials": (1, 10**6),
    "sweep.prune_after_trials": (1, 10**6),
    "sweep.prune_after_epochs": (0, 10**6),
    "n": (2, 1000),
    "first": (0, 2**31),
    "workers": (1, 10),
    "attempts": (1, 100),
    "first_wait_seconds": (0, 60),
    "give_up_minutes": (0.01, 1e6),
    "train_kills": (0, 10**6),
    "prepare_kills": (0, 10**6),
    "inputs": (1, 10**9),
    "cohorts": (10, 10**6),
    "draws": (50, 10**6),
    "processes": (1, 1024),
    "seed": (0, 2**32 - 1),
    "data.split_seed": (0, 2**32 - 1),
    "report.seed": (0, 2**32 - 1),
}


def check_values(config: Any) -> None:
    """Raises ConfigError for the first value that is outside its choices or its range, with both."""

    def look_up(dotted: str) -> Any:
        value = config
        for part in dotted.split("."):
            value = getattr(value, part, None)
        return value

    for dotted, choices in CHOICES.items():
        value = look_up(dotted)
        if value is not None and value not in choices:
            raise ConfigError(f"{dotted}={value}: choose {' or '.join(choices)}" + near(str(value), choices))
    for dotted, (least, most) in RANGES.items():
        value = look_up(dotted)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{dotted}={value}: it must lie between {least} and {most}")
    for prevalence in look_up("operating.prevalences") or []:
        if not 0 < prevalence < 1:
            raise ConfigError(f"operating.prevalences: {prevalence} is no fraction between 0 and 1")
    if look_up("logger.gallery") and not look_up("report.gallery"):
        raise ConfigError("logger.gallery=true sends a page that report.gallery=true makes: give both, or neither")
    validation = look_up("data.validation")
    if isinstance(validation, float | int) and not 0 < validation < 1:
        raise ConfigError(f"data.validation={validation}: a fraction between 0 and 1, or the path of a list of images")


def store_size(data: Data) -> int:
    """Side of a stored film in pixels."""
    return data.store_size or round(data.image_size * 8 / 7)


# --- starting ---------------------------------------------------------------------------------------------------------------------------------------


def entry(name: str, schema: type) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Makes a function of a typed config into an entry point: `configs/<name>.yaml` and the command line in, one line out on any mistake.

    Args:
        name: of the primary config file.
        schema: the dataclass that knows every key.
    """

    def decorate(function: Callable[[Any], None]) -> Callable[[], None]:
        def run() -> None:
            if {"--help", "-h"} & set(sys.argv[1:]):
                print(help_text(sys.modules[function.__module__].__doc__ or "", schema))
                return
            process.prepare()
            if "resume" in {item.name for item in fields(schema)}:
                try:
                    sys.argv[1:] = job.arguments(resume.arguments(sys.argv[1:]))
                except (resume.ResumeError, job.JobError) as error:
                    sys.exit(f"error: {error}" if job.is_first() else 1)
            try:
                sys.exit(_run_hydra(name, schema, function))
            except KeyboardInterrupt:
                sys.exit("stopped")

        return run

    return decorate


def _run_hydra(name: str, schema: type, function: Callable[[Any], None]) -> int:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register(schema)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own handler would print a traceback and leave

    ended_by: list[BaseException] = []

    def typed(raw: Any) -> None:
        try:
            for group in VARIANTS.keys() & raw.keys():
                if raw[group].name != getattr(OmegaConf.get_type(raw, group), "name", None):
                    raise ConfigError(f"{group}.name={raw[group].name}: choose it as {group}={raw[group].name}, which brings its own keys")
            # once more over the bare schema: `+foo=1` and `++foo=1` have opened the composed one
            function(from_plain(schema, OmegaConf.to_container(raw, enum_to_str=True)))
        except BaseException as error:  # kept from Hydra, which would print words of its own around it
            if not isinstance(error, Exception) and not hasattr(error, "exit_code"):
                raise
            ended_by.append(error)

    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(typed)()
    except (HydraException, OmegaConfBaseException, OSError) as error:
        ended_by.append(error)
    except Exception as error:  # of a file that is no YAML, or not Hydra's; ours come out of `typed`
        ended_by.append(ConfigError(f"the configuration cannot be read: {' '.join(str(error).split())}"))
    status = 0
    for failure in ended_by:
        status = max(status, getattr(failure, "exit_code", 1))
        if isinstance(failure, HydraException | OmegaConfBaseException | ConfigError | job.JobError) and not job.is_first():
            continue  # the first one says it
        if isinstance(failure, HydraException | OmegaConfBaseException):
            print(f"error: {explain(failure, schema)}", file=sys.stderr)
        elif type(failure).__module__.startswith("cxr."):
            # what this package raises on purpose is written for people; anything else is a bug and keeps its traceback
            print(failure if hasattr(failure, "exit_code") else f"error: {failure}", file=sys.stderr)
        elif isinstance(failure, OSError) and (failure.filename or failure.errno in failures.FULL):
            print(f"error: {failures.disk_failure(failure)}", file=sys.stderr)
        else:
            traceback.print_exception(failure)
    return status


def from_plain(schema: type, plain: Any) -> Any:
    """A typed config from plain values; raises what OmegaConf says of a key or a type, and ConfigError for a value."""
    from omegaconf import OmegaConf

    base = OmegaConf.structured(schema)
    for group in VARIANTS.keys() & plain.keys() & {item.name for item in fields(schema)}:
        name = plain[group].get("name") if isinstance(plain[group], dict) else None
        kinds = {kind.__dataclass_fields__["name"].default: kind for kind in VARIANTS[group]}
        if name not in kinds:
            raise ConfigError(f"{group}.name={name}: choose {group}={' or '.join(kinds)}{near(str(name), kinds)}")
        base[group] = OmegaConf.structured(kinds[name])
    config = OmegaConf.to_object(OmegaConf.merge(base, plain))
    check_values(config)
    return config


def register(schema: type) -> None:
    """Makes the schema, the option groups that differ in keys, and the resolvers of configs/ known to Hydra."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    OmegaConf.register_new_resolver("either", lambda value, otherwise: value or otherwise, replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    for group, options in VARIANTS.items():
        for option in options:
            store.store(group=group, name=str(option.__dataclass_fields__["name"].default), node=option)


def explain(error: BaseException, schema: type) -> str:
    """One line for a configuration mistake: which key, why, the nearest name, and where it was written."""
    from omegaconf.errors import OmegaConfBaseException

    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None:
        chain.append(at)
        at = at.__cause__ or at.__context__
    text = "\n".join(str(link) for link in chain)

    where = re.search(r"In '([^']+)'", text)
    place = f" (in {where[1]})" if where and where[1] not in ("schema",) else ""
    unknown = re.search(r"Key '([^']+)' (?:is )?not in '?(\w+)'?", text) or re.search(r"Key '([^']+)' not in '(\w+)'", text)
    full = re.search(r"full_key: (\S+)", text)
    if unknown:
        name, owner = unknown[1], unknown[2]
        full_key = full[1] if full else name
        return f"{full_key}: no such key in {owner}{near(name, _keys_of(owner, schema))}{place}"
    option = re.search(r"Could not find '([^'/]+)/([^']+)'", text)
    if option:
        available = sorted(path.stem for path in (CONFIGS / option[1]).glob("*.yaml")) or re.findall(r"\n\t(\S+)", text)
        return f"{option[1]}={option[2]}: no such option{near(option[2], available)}; there are {', '.join(available)}"
    group = re.search(r"Could not override '([^']+)'", text)
    if group:
        names = [*dict.fromkeys([*(item.name for item in fields(schema)), "experiment", *_dotted(schema)])]
        return f"{group[1]}: no such key{near(group[1], names)}"
    # the innermost words that are filled in: OmegaConf also raises its templates
    told = [str(link).splitlines()[0] for link in reversed(chain) if isinstance(link, OmegaConfBaseException) and str(link)]
    first = next((words for words in told if "$VALUE" not in words), str(error).splitlines()[0])
    return (f"{full[1]}: {first}" if full and full[1] not in first else first) + place


def near(name: str, known: Any) -> str:
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _keys_of(owner: str, schema: type) -> list[str]:
    known = {schema.__name__: schema} | {kind.__name__: kind for kind in globals().values() if isinstance(kind, type) and is_dataclass(kind)}
    return [item.name for item in fields(known[owner])] if owner in known else []


def _dotted(schema: type) -> list[str]:
    groups = {item.name: item.type for item in fields(schema) if is_dataclass(item.type)}
    return [f"{group}.{item.name}" for group, kind in groups.items() for item in fields(kind)]


def help_text(doc: str, schema: type) -> str:
    """The entry point's own text, the groups with their options, and every key with its default and explanation."""
    lines = [doc.strip(), "", "Options of the groups (group=option):"]
    options = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in sorted(CONFIGS.iterdir()) if folder.is_dir()}
    options |= {group: [str(kind.__dataclass_fields__["name"].default) for kind in kinds] for group, kinds in VARIANTS.items()}
    names = {item.name for item in fields(schema)} | ({"experiment"} if issubclass(schema, Config) else set())
    lines += [f"  {group:<12}{', '.join(found)}" for group, found in sorted(options.items()) if group in names]
    lines += ["", "Keys (key=value), with their defaults before any option is chosen:"]
    for name, default, told in explained(schema):
        lines += textwrap.wrap(f"{name}={default}".ljust(46) + "  " + told, 150, initial_indent="  ", subsequent_indent=" " * 50)
    lines += ["", "The run folder is hydra.run.dir. A grid of runs: train.py -m key=1,2,3. The composed config without running: --cfg job --resolve."]
    return "\n".join(lines)


def explained(schema: type) -> Iterator[tuple[str, str, str]]:
    """Every key: its dotted name, its default before any option is chosen, and what it means."""
    for item in fields(schema):
        variants = VARIANTS.get(item.name) or ([item.type] if is_dataclass(item.type) else [])
        if not variants:
            yield item.name, _default(item), item.metadata["help"]
        told = set[str]()
        for kind in variants:
            for sub in fields(kind):
                if sub.name not in told and "help" in sub.metadata:
                    told |= {sub.name} if sub.name != "name" else set()
                    yield f"{item.name}.{sub.name}", _default(sub), sub.metadata["help"]


def _default(item: Any) -> str:
    default = item.default_factory() if callable(item.default_factory) else item.default
    if is_dataclass(default):
        return "none"
    shown = "required" if default == MISSING else "null" if default is None else default.name if isinstance(default, Enum) else str(default)
    return shown.removeprefix(f"{PROJECT}/")
