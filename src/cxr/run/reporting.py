"""From predictions and label files to numbers and pages; torch is not needed."""

import json
import logging
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from omegaconf import OmegaConf

import cxr
from cxr.atomic import sync, write_whole
from cxr.cohort.catalogue import LABEL_FILES, load_catalogue
from cxr.cohort.experts import FILES as EXPERT_FILES
from cxr.cohort.experts import HELD_OUT, JURY, TEST_SETS
from cxr.cohort.experts import SOURCE as EXPERT_SOURCE
from cxr.cohort.findings import NIH_FINDINGS, UNIONS, text_mined
from cxr.cohort.splits import Splits
from cxr.config import AuditConfig, Data, EvaluateConfig, Macro, Operating, ReferenceMapping, Report
from cxr.resume import EVALUATION, file_sha256
from cxr.run import RunError
from cxr.run.provenance import git_commit, now, validation_in_words
from cxr.run.study import Study, load_study, log_study

if TYPE_CHECKING:
    from cxr.report.charts import Chart
    from cxr.report.predictions import Predictions
    from cxr.report.protocol import Frozen
    from cxr.report.reference import ReferenceSet

log = logging.getLogger(__name__)

# every finding that text mining speaks of, alone or as a union
MINED = (*NIH_FINDINGS, *UNIONS)

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
        RunError: it is no run folder.
    """
    if not (run_dir / "config.yaml").is_file():
        raise RunError(f"{run_dir}: no run folder, for it holds no config.yaml")
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))  # type: ignore[assignment]
    plain["data"] |= {key: value for key, value in {"root": root, "expert_labels": expert_labels}.items() if value}
    data: Data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), plain["data"]))  # type: ignore[assignment]
    for group, kind in EVALUATION_KINDS.items():  # a run made before a key existed gets its default
        plain[group] = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(kind), plain.get(group, {})))
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
    write_report(run_dir, plain, load_study(data))


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


def write_report(run_dir: Path, plain: dict[str, Any], study: Study) -> Written:
    """report.json, report.html, report.md and figures, from predictions.parquet and the label files."""
    from cxr.report import figures, render
    from cxr.report.charts import charts
    from cxr.report.evaluate import evaluate as evaluate_predictions
    from cxr.report.evaluate import prevalences
    from cxr.report.predictions import read_predictions
    from cxr.report.protocol import record_look

    path, settings = run_dir / "predictions.parquet", plain["report"]
    references = reference_sets(study)
    frozen, validation = freeze_evaluation(run_dir, plain, references)
    refuse_strangers(validation.table, study.splits)
    # from here on the test predictions are known, and nothing above may change without another line in that file
    looks = record_look(run_dir / "looks.jsonl", frozen, checkpoint_sha256=validation.metadata["checkpoint_sha256"])
    predictions = read_predictions(path)
    refuse_strangers(predictions.table, study.splits)
    train_val = _with_text_mined(study, pd.concat([study.splits.train, study.splits.val]))
    sets = evaluate_predictions(predictions, references, frozen, train_val=train_val)
    report = {
        "protocol": {
            **predictions.metadata["protocol"],
            "labels": study.catalogue.labels,
            "lists_sha256": study.catalogue.lists_sha256,
            "intervals": f"95 %, {settings['draws']} draws of patients with replacement, seed {settings['seed']}, logit scale",
            "evaluation": {"sha256": frozen.sha256, **frozen.content},
            "provenance": predictions.metadata["provenance"] | {"reported": now(), "looks": looks},
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
        primary_endpoint=f"macro AUROC on {'all_findings_test' if 'all_findings_test' in references else 'nih_test'}",
        settings={
            **{key: settings[key] for key in ("draws", "reader_draws", "seed")},
            **{key: plain["operating"][key] for key in ("rule", "prevalences")},
            "macro_available": plain["macro"]["available"],
        },
    )
    return frozen, validation


def refuse_strangers(table: pd.DataFrame, splits: Splits) -> None:
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
