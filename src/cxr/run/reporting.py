"""From predictions and label files to numbers and pages; torch is not needed."""

import json
import logging
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import cxr
from cxr.atomic import sync, write_whole
from cxr.cohort.catalogue import LABEL_FILES, load_catalogue
from cxr.cohort.experts import FILES as EXPERT_FILES
from cxr.cohort.experts import HELD_OUT, JURY, TEST_SETS
from cxr.cohort.experts import SOURCE as EXPERT_SOURCE
from cxr.cohort.findings import NIH_FINDINGS, UNIONS, text_mined
from cxr.cohort.pretraining import saw_test_films
from cxr.cohort.spaces import OtherSet
from cxr.config import AuditConfig, Data, EvaluateConfig, Macro, Operating, ReferenceMapping, Report
from cxr.resume import EVALUATION, file_sha256
from cxr.run import RunError
from cxr.run.provenance import git_commit, now, validation_in_words
from cxr.run.study import Study, load_study, log_study, store_folder

if TYPE_CHECKING:
    from cxr.report.charts import Chart
    from cxr.report.predictions import Predictions
    from cxr.report.protocol import Frozen
    from cxr.report.reference import ReferenceSet

log = logging.getLogger(__name__)

# finding that only other data sets label -> the key under mapping of the model's findings that stand for it
OTHER_UNIONS = {"Lung Opacity": "lung_opacity", "Tuberculosis": "tuberculosis", "Cavity": "cavity"}

# what is known of a film besides its findings
ABOUT_FILMS = ("image_id", "patient_id", "view", "sex", "age", "follow_up", "n_films")

# the set of the primary endpoint is the first of these that there is, or else the last that was named
ENDPOINTS = ("all_findings_test", "nih_test")

# a third label file, a sample on Kaggle, is a part of one of these
NIH_RELEASES = LABEL_FILES[:2]

EVALUATION_KINDS: dict[str, type] = {"macro": Macro, "mapping": ReferenceMapping, "operating": Operating, "report": Report}


class ReadConfig(NamedTuple):
    """A run's configuration: all of it as plain values, and where its data lies."""

    plain: dict[str, Any]
    data: Data


def read_config(run_dir: Path, *, root: str | None, expert_labels: str | None) -> ReadConfig:
    """Of a finished run.

    Args:
        run_dir: its folder.
        root, expert_labels: where its data and labels lie now, if they moved.

    Raises:
        RunError: it is no run folder, or its configuration is damaged.
    """
    if not (run_dir / "config.yaml").is_file():
        raise RunError(f"{run_dir}: no run folder, for it holds no config.yaml")
    try:
        plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))  # type: ignore[assignment]
        if "external" in plain:
            raise RunError(f"{run_dir}: no run, but a run on another data set; make it again with scripts/external.py run={plain['external']['run']} ...")
        plain["data"] |= {key: value for key, value in {"root": root, "expert_labels": expert_labels}.items() if value}
        data: Data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), plain["data"]))  # type: ignore[assignment]
        for group, kind in EVALUATION_KINDS.items():  # a run made before a key existed gets its default
            plain[group] = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(kind), plain.get(group, {})))
    except RunError:
        raise
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"{run_dir}/config.yaml is damaged, or of another version ({told})") from error
    return ReadConfig(plain, data)


def evaluate(config: EvaluateConfig) -> None:
    """Rebuilds the report of a finished run from its files and the label files alone; torch is not needed."""
    from hydra.core.hydra_config import HydraConfig

    run_dir = Path(config.run).absolute()
    plain, data = read_config(run_dir, root=config.root, expert_labels=config.expert_labels)
    for override in HydraConfig.get().overrides.task:  # what was typed wins over the run's, and what was not keeps it
        group, _, key = override.partition("=")[0].lstrip("+").partition(".")
        if group in EVALUATION:
            plain[group][key] = getattr(getattr(config, group), key)
    data.store_dir = config.store_dir or data.store_dir
    write_report(run_dir, plain, load_study(data), store=store_folder(data))


def audit_labels(config: AuditConfig) -> None:
    """Labels against labels, into the run folder that Hydra has made; no film, no model and no torch is needed."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.report import audit_page, render
    from cxr.report.audit import MAX_AGREEMENT_DRAWS, audit

    started, data = now(), config.data
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
            "validation": validation_in_words(data),
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
            "commit": git_commit(),
            "provenance": {"started": started, "reported": now(), "host": platform.node(), "data_root": str(root)}
            | {"expert_labels": str(Path(data.expert_labels).absolute())},
        },
        "attribution": render.attribution(data.name, True),
    }
    audit_page.write(run_dir, report)
    log.info(audit_page.summary(report))
    log.info("Audit: %s", run_dir / "audit.html")


class Written(NamedTuple):
    """A report: the content of report.json, its page, title -> figure, and the curves as numbers (`cxr.report.charts`)."""

    report: dict[str, Any]
    page: Path
    figures: dict[str, Path]
    charts: "dict[str, Chart]"


def write_report(run_dir: Path, plain: dict[str, Any], study: Study, *, store: Path | None = None) -> Written:
    """report.json, report.html, report.md and figures, from predictions.parquet and the label files; on request also what needs the films.

    Args:
        run_dir: the run's folder.
        plain: its configuration.
        study: its labels and splits.
        store: the folder of its films; None for what has no network of its own, an ensemble, for which nothing is made of films.
    """
    from cxr.report import render
    from cxr.report.evaluate import evaluate as evaluate_predictions
    from cxr.report.evaluate import prevalences
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import record_look
    from cxr.report.shortcuts import probes
    from cxr.run.films import kept_features, make_features, make_gallery, require_films

    path, settings = run_dir / "predictions.parquet", plain["report"]
    references = reference_sets(study)
    frozen, validation = freeze_evaluation(run_dir, plain, references)
    refuse_strangers(validation.table, study)
    wishes = {"gallery": settings.get("gallery"), "shortcuts": settings.get("shortcuts") and kept_features(run_dir, validation) is None}
    for key, wish in wishes.items():
        if wish and store:
            require_films(run_dir, validation, store, f"report.{key}")
    # from here on the test predictions are known, and nothing above may change without another line in that file
    looks = record_look(run_dir / "looks.jsonl", frozen, checkpoint_sha256=validation.metadata["checkpoint_sha256"])
    predictions = read_predictions(path)
    refuse_strangers(predictions.table, study)
    train_val = with_text_mined(study, pd.concat([study.splits.train, study.splits.val]), [source.other for source in study.sources.values()])
    sets = evaluate_predictions(predictions, references, frozen, train_val=train_val)
    report: dict[str, Any] = {
        "protocol": {
            **predictions.metadata["protocol"],
            "pretraining": pretraining(plain, predictions.metadata["protocol"]),
            "labels": study.catalogue.labels,
            "lists_sha256": study.catalogue.lists_sha256,
            "intervals": f"95 %, {settings['draws']} draws of patients with replacement, seed {settings['seed']}, logit scale",
            "evaluation": {"sha256": frozen.sha256, **frozen.content},
            "provenance": predictions.metadata["provenance"] | {"reported": now(), "looks": looks},
        },
        "reference_sets": sets | _unreported(study),
        "prevalences": prevalences(predictions, references, train_val),
        "attribution": render.attribution(plain["data"]["name"], study.experts is not None, study.sources),
    }
    scores = {name: frozen.mapping.scores(predictions, reference) for name, reference in references.items()}
    features, accelerator = kept_features(run_dir, predictions), plain["trainer"]["accelerator"]
    if features is None and settings.get("shortcuts") and store:
        features = make_features(run_dir, predictions, store, accelerator=accelerator)
    fitted_on = [references[name] for name in ("nih_val", "four_findings_validation") if name in references]
    drawn = {"draws": settings["draws"], "seed": settings["seed"]}
    report["shortcuts"] = probes(predictions, features, fitted_on, references["nih_test"], **drawn)
    gallery = None
    if settings.get("gallery") and store:
        told = (run_dir, report, predictions, frozen, references, scores, store)
        gallery = make_gallery(*told, n=settings["gallery_films"], accelerator=accelerator)
        report["gallery"] = gallery.told if gallery else None
    return publish(run_dir, report, scores, references, gallery=gallery.page if gallery else None)


def pretraining(plain: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the weights that the training began with having seen ChestX-ray14's test films."""
    sha256 = protocol.get("weights", {}).get("sha256")  # a run of an earlier version did not keep it
    return {"saw_nih_test": saw_test_films(plain["model"]["weights"], plain["model"]["name"], sha256)}


def publish(
    run_dir: Path, report: dict[str, Any], scores: dict[str, pd.DataFrame], references: "Mapping[str, ReferenceSet]", *, gallery: bytes | None = None
) -> Written:
    """report.json, its pages and figures, into `report/` of a folder: all of them or none.

    Args:
        run_dir: the folder; its metrics.csv is drawn where there is one.
        report: the content of report.json.
        scores: reference set -> the model's scores, indexed by image_id.
        references: the sets that have numbers, complete.
        gallery: a page of films, to lie beside the report.
    """
    from cxr.report import figures, render
    from cxr.report.charts import charts
    from cxr.report.gallery import FILE as GALLERY

    folder = run_dir / "report"
    building = run_dir / "report.partial"
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    pictures = figures.draw(building / "figures", report, scores, references, metrics_csv=run_dir / "metrics.csv")
    write_whole(building / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    if gallery:
        write_whole(building / GALLERY, gallery)
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
    if gallery:
        log.info("Errors, with the films (they stay on this machine): %s", folder / GALLERY)
    drawn = {title: folder / path.relative_to(building) for title, path in pictures.items()}
    return Written(report, folder / "report.html", drawn, charts(report, scores, references))


def freeze_evaluation(run_dir: Path, plain: Mapping[str, Any], references: "Mapping[str, ReferenceSet]") -> "tuple[Frozen, Predictions]":
    """Mapping, thresholds and lists of findings of a run, from its validation predictions alone, which are returned too."""
    from cxr.report.mapping import make_mapping
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import freeze

    path = run_dir / "predictions.parquet"
    validation = read_predictions(path, splits=("val", "expert_validation"))
    settings, mapping = plain["report"], plain["mapping"]
    labelled = {finding for reference in references.values() for finding in reference.findings}
    others = {finding: mapping.get(key) for finding, key in OTHER_UNIONS.items() if finding in labelled}  # a run of an earlier version has none
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
            others={finding: members for finding, members in others.items() if members},
        ),
        targets={rule: plain["operating"][rule] for rule in ("specificity", "sensitivity")},
        primary_endpoint=f"macro AUROC on {next(name for name in (*ENDPOINTS, *reversed(list(references))) if name in references)}",
        settings={
            **{key: settings[key] for key in ("draws", "reader_draws", "seed")},
            **{key: plain["operating"][key] for key in ("rule", "prevalences")},
            "macro_available": plain["macro"]["available"],
        },
    )
    return frozen, validation


def refuse_strangers(table: pd.DataFrame, study: Study) -> None:
    for split, predicted in table.groupby("split").image_id:
        strangers = predicted[~predicted.isin(study.films(str(split)).image_id)]
        if len(strangers):
            raise RunError(f"{len(strangers)} predicted {split} images are not in {split} by today's files: the run was made with other splits or labels")


def reference_sets(study: Study) -> "dict[str, ReferenceSet]":
    """Every set that may be reported, complete, with what is known of its films and who read them."""
    from cxr.report.reference import ReferenceSet

    others = [source.other for source in study.sources.values()]
    sets = {name: nih_reference(study, name, others) for name in ("nih_val", "nih_test")}
    for name, source in study.sources.items():
        if len(source.val):
            sets[f"{name}_val"] = other_reference(source.other, source.val, f"{name}_val", "val", adjudicated=False)
        for part, adjudicated in source.other.adjudicated.items():
            if len(source.test):
                sets[part] = other_reference(source.other, source.test, part, "test", adjudicated=adjudicated)
    if study.experts is None:
        return sets
    for name, (_, _, findings, _) in EXPERT_FILES.items():
        if name == "four_findings_validation" and study.splits.keep_expert_validation:
            continue
        labels, split = study.experts.labels[name], "test" if name in TEST_SETS else "expert_validation"
        known = with_text_mined(study, labels[["image_id", "patient_id"]], others)
        films = known[list(ABOUT_FILMS)].join(labels[list(findings)])
        held_out = HELD_OUT if name == "all_findings_test" else ()
        sets[name] = ReferenceSet(name, split, True, findings, films, known.drop(columns=list(ABOUT_FILMS)), len(labels), study.experts.reads[name], held_out)
    return sets


def nih_reference(study: Study, name: str, others: Iterable[OtherSet] = ()) -> "ReferenceSet":
    """nih_val or nih_test, with text-mined labels of what these other data sets label as well."""
    from cxr.report.reference import ReferenceSet

    split, listed = ("val", len(study.splits.val)) if name == "nih_val" else ("test", len(study.catalogue.lists["test"]))
    films = with_text_mined(study, getattr(study.splits, split), others)
    return ReferenceSet(name, split, False, NIH_FINDINGS, films[[*ABOUT_FILMS, *NIH_FINDINGS]], films.drop(columns=list(ABOUT_FILMS)), listed)


def other_reference(other: OtherSet, films: pd.DataFrame, name: str, split: str, *, adjudicated: bool) -> "ReferenceSet":
    """A reference set of another data set's films.

    Args:
        other: the data set.
        films: which of its films.
        name, split, adjudicated: of the reference set.
    """
    from cxr.report.reference import ReferenceSet

    findings = other.space.findings
    known = other.films.set_index("image_id", drop=False)
    if "n_films" not in known:
        known = known.assign(n_films=known.groupby("patient_id").patient_id.transform("size"))
    rows = known.loc[films.image_id, [*ABOUT_FILMS, *findings]].reset_index(drop=True)
    rows["patient_id"] = pd.factorize(rows.patient_id)[0]  # numbers, as everywhere in a report, where they only tell films of one from films of another
    mined = pd.DataFrame(index=rows.index) if adjudicated else rows[list(findings)]
    return ReferenceSet(name, split, adjudicated, findings, rows, mined, len(rows))


def with_text_mined(study: Study, films: pd.DataFrame, others: Iterable[OtherSet]) -> pd.DataFrame:
    """image_id, patient_id, view, sex, age, follow_up and every finding that text mining knows, unions too, in the order of the films."""
    images = study.catalogue.images.set_index("image_id")
    rows = images.reindex(films.image_id)
    unions = UNIONS | {finding: members for other in others for finding, members in other.space.members.items()}
    known = {column: rows[column].to_numpy() for column in ABOUT_FILMS[2:]}
    return pd.DataFrame(
        {"image_id": films.image_id.to_numpy(), "patient_id": films.patient_id.to_numpy()}
        | known
        | {finding: told.to_numpy() for finding in (*NIH_FINDINGS, *unions) if (told := text_mined(rows, finding, unions)) is not None}
    )


def _unreported(study: Study) -> dict[str, Any]:
    """The expert sets without numbers, each with the reason."""
    if study.experts is None:
        return {name: {"findings": None, "reason": "no expert labels were given"} for name in EXPERT_FILES}
    if study.splits.keep_expert_validation:
        return {"four_findings_validation": {"findings": None, "reason": "trained on these patients"}}
    return {}
