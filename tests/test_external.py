"""A finished run on other data sets, each in its published files, from films to report; every number recomputed from the files by other means."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import call
from sklearn.metrics import roc_auc_score

from cxr.cohort.findings import NIH_FINDINGS, UNIONS
from cxr.cohort.rsna import CLASSES, MAPPING
from cxr.cohort.spaces import OPACITIES
from cxr.cohort.splits import SplitError
from cxr.config import Data, ExternalConfig, Overlap, Report, Uncertain
from cxr.mini_external import write_chexpert, write_mimic, write_rsna, write_tbportals
from cxr.report.predictions import read_predictions
from cxr.run import RunError
from cxr.run.external import run_on_other_set

Told = dict[str, Any]
FAST = ["report.draws=100", "report.reader_draws=100"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_chexpert(folder / "chexpert", n_patients=80, n_images=240)
    write_mimic(folder / "mimic", n_patients=60, n_images=160)
    write_rsna(folder / "rsna", share=0.15)
    write_tbportals(folder / "tbportals", n_patients=40, n_images=80)
    return folder


@pytest.fixture(scope="module")
def test_on(finished_run: Path, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tests the demo's run on a set, within this process; returns the folder."""

    def test(name: str, *typed: str, **data: Any) -> Path:
        into = tmp_path_factory.mktemp(name)
        config = ExternalConfig(
            run=str(finished_run),
            accelerator="cpu",
            data=Data(name=name, root=str(sets / name), store_dir=str(sets / "stores"), **data),
            report=Report(draws=100, reader_draws=100),
        )
        for key in typed:
            name, _, value = key.partition("=")
            setattr(config.mapping, name.removeprefix("mapping."), value.strip("[]").split(","))
        run_on_other_set(config, into, typed=[*FAST, *typed])
        return into

    return test


def read(folder: Path) -> tuple[Told, pd.DataFrame, dict[str, float]]:
    table = pq.read_table(folder / "predictions.parquet").to_pandas().set_index("image_id")
    prevalence = read_predictions(folder / "predictions.parquet").metadata["train_prevalence"]
    return json.loads((folder / "report/report.json").read_text()), table, prevalence


def score(table: pd.DataFrame, names: tuple[str, ...], prevalence: dict[str, float]) -> np.ndarray:
    """Of one finding its logit; of several the largest less its training log-odds."""
    if len(names) == 1:
        return table[f"logit_{names[0]}"].to_numpy(np.float64)
    rates = {name: min(max(prevalence[name], 0.001), 0.999) for name in names}
    return np.max([table[f"logit_{name}"].to_numpy(np.float64) - np.log(rate / (1 - rate)) for name, rate in rates.items()], axis=0)


def check(part: Told, table: pd.DataFrame, prevalence: dict[str, float], truth: dict[str, dict[str, float]], names: dict[str, tuple[str, ...]]) -> None:
    """Every AUROC of a set is sklearn's; `truth` is image -> finding -> label, `names` the model's findings behind each that it speaks of."""
    assert part["n_images"] == len(table) == len(truth)
    for finding, row in part["findings"].items():
        label = np.array([truth[image][finding] for image in table.index])
        known = ~np.isnan(label)
        assert (row["n_pos"], row["n_neg"], row["n_unknown"]) == ((label == 1).sum(), (label == 0).sum(), (~known).sum())
        if finding not in names:
            assert (row["auroc"], row["reason"]) == (None, "not predicted by this model")
        elif row["n_pos"] and row["n_neg"]:
            assert row["auroc"]["value"] == pytest.approx(roc_auc_score(label[known], score(table[known], names[finding], prevalence)), abs=1e-12)
        else:
            assert row["auroc"] is None
            assert row["reason"]


LABELLER = {finding: (finding,) for finding in ("Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Consolidation", "Edema")} | {
    "Nodule or mass": UNIONS["Nodule or mass"],
    "Lung Opacity": OPACITIES,
}
COLUMN = {"Effusion": "Pleural Effusion", "Nodule or mass": "Lung Lesion"}


def test_chexpert_by_the_command_a_user_types(finished_run: Path, sets: Path, tmp_path: Path) -> None:
    into = tmp_path / "external"
    place = [f"data.root={sets / 'chexpert'}", f"data.store_dir={sets / 'stores'}", f"hydra.run.dir={into}"]
    done = call("scripts/external.py", f"run={finished_run}", "data=chexpert", *place, "accelerator=cpu", *FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "chexpert_valid" in done.stdout
    assert f"Report: {into / 'report/report.html'}" in done.stdout

    report, table, prevalence = read(into)
    with (sets / "chexpert/valid.csv").open() as file:
        rows = {"chexpert:" + row["Path"].split("/", 1)[1]: row for row in csv.DictReader(file) if row["Frontal/Lateral"] == "Frontal"}
    part = report["reference_sets"]["chexpert_valid"]
    truth = {image: {finding: float(row[COLUMN.get(finding, finding)]) for finding in part["findings"]} for image, row in rows.items()}
    check(part, table, prevalence, truth, LABELLER)
    assert part["findings"]["Pneumothorax"]["auroc"]["value"] > 0.9  # it reads films that are drawn as those it learned from
    assert part["adjudicated"]
    assert set(table.patient_id) == {"chexpert:" + row["Path"].split("/")[2] for row in rows.values()}
    assert report["protocol"]["evaluation"]["primary_endpoint"] == "macro AUROC on chexpert_valid"
    assert (into / "report/figures/chexpert_valid_roc.png").stat().st_size > 0


def test_mimic_under_a_chosen_policy_with_thresholds_of_the_runs_own_validation_films(
    finished_run: Path, mini: Path, sets: Path, test_on: Callable[..., Path]
) -> None:
    report, table, prevalence = read(test_on("mimic", uncertain=Uncertain.ones))
    tables = {}
    for kind in ("chexpert", "split", "metadata"):
        with gzip.open(sets / f"mimic/mimic-cxr-2.0.0-{kind}.csv.gz", "rt") as file:
            tables[kind] = list(csv.DictReader(file))
    labels = {row["study_id"]: row for row in tables["chexpert"]}
    in_test = {row["dicom_id"] for row in tables["split"] if row["split"] == "test"}
    meaning = {"1.0": 1.0, "0.0": 0.0, "-1.0": 1.0, "": 0.0}
    part = report["reference_sets"]["mimic_test"]
    truth = {
        f"mimic:{row['dicom_id']}": {finding: meaning[labels[row["study_id"]][COLUMN.get(finding, finding)]] for finding in part["findings"]}
        for row in tables["metadata"]
        if row["dicom_id"] in in_test and row["ViewPosition"] in ("AP", "PA") and row["study_id"] in labels
    }
    check(part, table, prevalence, truth, LABELLER)
    assert part["ages"] == {"min": None, "median": None, "max": None}
    assert report["protocol"]["external"]["labels"]["uncertain"] == "ones"

    val = pq.read_table(finished_run / "predictions.parquet").to_pandas().query("split == 'val'")
    with (mini / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        mined = {row[0]: set(row[1].split("|")) for row in csv.reader(file)}
    carried = {finding: row["operating_points"] for finding, row in part["findings"].items() if row.get("operating_points", {}).get("source")}
    assert "Lung Opacity" in carried
    for finding, points in carried.items():
        assert (points["source"], points["text_mined_target"]) == ("nih_val", True)
        threshold = points["rules"]["specificity"]["threshold"]
        without = score(val[[mined[image].isdisjoint(LABELLER[finding]) for image in val.image_id]], LABELLER[finding], prevalence)
        assert (without < threshold).mean() >= 0.9
        assert (without < without[without < threshold].max()).mean() < 0.9  # and no lower threshold would do
        label = np.array([truth[image][finding] for image in table.index])
        called = score(table, LABELLER[finding], prevalence) >= threshold
        assert points["rules"]["specificity"]["sensitivity"]["value"] == pytest.approx(called[label == 1].mean())


def test_rsna_is_refused_with_counts_and_without_seen_patients_it_is_reported(finished_run: Path, sets: Path, mini: Path, test_on: Callable[..., Path]) -> None:
    with pytest.raises(SplitError, match=r"rsna: \d+ of \d+ films are of patients that stand elsewhere \(\d+ films of \d+ patients in train.*overlap=exclude"):
        test_on("rsna")
    report, table, prevalence = read(test_on("rsna", overlap=Overlap.exclude))
    mapping = {f"rsna:{record['subset_img_id']}": record["img_id"] for record in json.loads((sets / "rsna" / MAPPING).read_text())}
    train_val = {image.split("_")[0] for image in (mini / "train_val_list.txt").read_text().split()}
    with (mini / "expert_labels/four_findings_expert_labels/validation_labels.csv").open(newline="") as file:
        excluded = {f"{int(row['Patient ID']):08d}" for row in csv.DictReader(file)}  # from training
    with (sets / "rsna" / CLASSES).open() as file:
        kinds = {f"rsna:{row['patientId']}": row["class"] for row in csv.DictReader(file)}
    unseen = {film for film in kinds if mapping[film].split("_")[0] not in train_val - excluded}
    assert set(table.index) == unseen
    assert 0 < len(unseen) < len(kinds)
    truth = {
        film: {"Airspace opacity": kinds[film] == "Lung Opacity", "Pneumonia": kinds[film] == "Lung Opacity", "Abnormal": kinds[film] != "Normal"}
        for film in unseen
    }
    names = {"Airspace opacity": UNIONS["Airspace opacity"], "Pneumonia": ("Pneumonia",), "Abnormal": NIH_FINDINGS}
    part = report["reference_sets"]["rsna"]
    check(part, table, prevalence, {film: {finding: float(value) for finding, value in row.items()} for film, row in truth.items()}, names)
    assert report["protocol"]["external"]["films_left_out"] == {"of patients seen in training": len(kinds) - len(unseen)}
    assert set(part["views"]) <= {"PA", "AP"}
    assert part["ages"]["median"] is not None


def test_tuberculosis_is_null_with_its_reason_and_a_mapping_makes_a_finding_spoken_of(test_on: Callable[..., Path]) -> None:
    report, table, _ = read(test_on("tbportals", "mapping.cavity=[Consolidation]", country="Belarus"))
    findings = report["reference_sets"]["tbportal"]["findings"]
    assert (findings["Tuberculosis"]["auroc"], findings["Tuberculosis"]["reason"]) == (None, "not predicted by this model")
    assert findings["Tuberculosis"]["n_pos"] == len(table)
    assert findings["Cavity"]["auroc"]["value"] > 0.8
    assert findings["Cavity"]["n_unknown"] > 0
    assert findings["Cavity"]["operating_points"]["reason"] == "nih_val: no text-mined label"


def test_a_look_is_counted_for_each_set_and_protocol(finished_run: Path, test_on: Callable[..., Path]) -> None:
    path = finished_run / "looks_chexpert.jsonl"
    before = path.read_text().splitlines() if path.is_file() else []
    looks = read(test_on("chexpert", "mapping.lung_opacity=[Consolidation]"))[0]["protocol"]["provenance"]["looks"]
    after = path.read_text().splitlines()
    assert after[: len(before)] == before
    assert looks == {"n": len(before) + 1, "n_protocols": len({json.loads(line)["evaluation_sha256"] for line in after})}


def test_what_is_no_run_or_no_other_set_is_said(finished_run: Path, test_on: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        run_on_other_set(ExternalConfig(run=str(tmp_path), data=Data(name="rsna", root="x")), tmp_path, typed=[])
    with pytest.raises(RunError, match="data=cxr14: the run's own report has it; choose data=chexpert or"):
        run_on_other_set(ExternalConfig(run=str(finished_run), data=Data(name="cxr14", root="x")), tmp_path, typed=[])
    told = call("train.py", "data=chexpert", "data.root=/nowhere")
    assert told.returncode == 1
    assert "to train on it beside ChestX-ray14: data.sources.chexpert.root=/nowhere" in told.stderr
