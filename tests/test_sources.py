"""Training on several data sets: one short run of the real command, and what its files say of who trained, on what, and whom to name."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import call
from sklearn.metrics import roc_auc_score

from cxr.cohort.findings import NIH_FINDINGS
from cxr.config import BCE, AdamW, Config, Data, Model, Overlap, Source, Sources, Uncertain
from cxr.mini_external import write_chexpert, write_rsna
from cxr.report.predictions import read_predictions
from cxr.report.render import attribution
from cxr.resume import config_sha256
from cxr.run import provenance
from cxr.run.study import load_study, targets_of

SMALL = ("trainer.max_epochs=1", "data.image_size=32", "data.batch_size=160", "data.num_workers=0", "report.draws=100", "report.reader_draws=100")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_chexpert(folder / "chexpert", n_patients=60, n_images=160, size=32)
    write_rsna(folder / "rsna", size=32, share=0.2)
    return folder


def data(mini: Path, sets: Path) -> Data:
    sources = Sources(chexpert=Source(root=str(sets / "chexpert"), uncertain=Uncertain.ones), rsna=Source(root=str(sets / "rsna"), overlap=Overlap.exclude))
    return Data(name="mini", root=str(mini), expert_labels=str(mini / "expert_labels"), sources=sources, image_size=32, validation=0.15)


def test_targets_are_each_sets_own_and_unknown_where_it_labels_nothing(mini: Path, sets: Path) -> None:
    study = load_study(data(mini, sets))
    films = study.films("train")
    targets = dict(zip(films.image_id, targets_of(study, films), strict=True))
    with (sets / "chexpert/train.csv").open() as file:
        rows = {"chexpert:" + row["Path"].split("/", 1)[1]: row for row in csv.DictReader(file)}
    column = {"Effusion": "Pleural Effusion"} | {name: name for name in ("Atelectasis", "Cardiomegaly", "Pneumonia", "Pneumothorax", "Consolidation", "Edema")}
    meaning = {"1.0": 1.0, "0.0": 0.0, "-1.0": 1.0, "": 0.0}
    n_seen = {"chexpert": 0, "rsna": 0, "cxr14": 0}
    for image, target in targets.items():
        source = image.split(":")[0] if ":" in image else "cxr14"
        n_seen[source] += 1
        known = {"chexpert": set(column), "rsna": {"Pneumonia"}, "cxr14": set(NIH_FINDINGS)}[source]
        assert {finding for finding, value in zip(NIH_FINDINGS, target, strict=True) if not np.isnan(value)} == known
        if source == "chexpert":
            told = [meaning[rows[image][column[finding]]] for finding in NIH_FINDINGS if finding in column]
            np.testing.assert_array_equal(target[~np.isnan(target)], told)
    assert min(n_seen.values()) > 30


def test_no_patient_stands_on_two_sides_nor_do_two_sets_share_a_name(mini: Path, sets: Path) -> None:
    study = load_study(data(mini, sets))
    sides = {split: study.films(split) for split in ("train", "val", "test", "expert_validation")}
    for one in sides:
        for other in set(sides) - {one}:
            assert set(sides[one].patient_id).isdisjoint(sides[other].patient_id)
            assert set(sides[one].image_id).isdisjoint(sides[other].image_id)
    for name, source in study.sources.items():
        assert len(source.val), name


def test_a_run_on_three_sets_names_them_all_reports_each_and_credits_each(mini: Path, sets: Path, tmp_path: Path) -> None:
    place = [f"data.root={mini}", f"data.store_dir={tmp_path / 'stores'}", f"hydra.run.dir={tmp_path / 'run'}", "logger.mode=disabled"]
    further = [f"data.sources.chexpert.root={sets / 'chexpert'}", f"data.sources.rsna.root={sets / 'rsna'}", "data.sources.chexpert.uncertain=ones"]
    refused = call("train.py", *place, *further, *SMALL)
    assert refused.returncode == 1
    assert "rsna: " in refused.stderr
    assert "patients in test" in refused.stderr
    assert "data.sources.rsna.overlap=exclude" in refused.stderr

    done = call("train.py", *place, *further, "data.sources.rsna.overlap=exclude", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "run/report/report.json").read_text())
    predictions = read_predictions(tmp_path / "run/predictions.parquet")
    study = load_study(data(mini, sets))

    assert set(report["protocol"]["sources"]) == {"chexpert", "rsna"}
    assert report["protocol"]["sources"]["chexpert"]["uncertain"] == "ones"
    assert {"nih_val", "nih_test", "chexpert_val", "chexpert_valid", "rsna_val", "all_findings_test"} <= set(report["reference_sets"])
    assert report["protocol"]["evaluation"]["primary_endpoint"] == "macro AUROC on all_findings_test"
    assert report["attribution"] == attribution("mini", True, ["chexpert", "rsna"])
    assert (tmp_path / "stores/mini+chexpert+rsna_37/meta.json").is_file()

    targets = targets_of(study, study.films("train"))
    for finding, share in zip(NIH_FINDINGS, np.nanmean(targets, axis=0), strict=True):
        assert predictions.metadata["train_prevalence"][finding] == pytest.approx(float(share), abs=1e-6)

    table = pq.read_table(tmp_path / "run/predictions.parquet").to_pandas().set_index("image_id")
    assert sorted(table.index[table.split == "val"]) == sorted(study.films("val").image_id)
    with (sets / "chexpert/valid.csv").open() as file:
        truth = {"chexpert:" + row["Path"].split("/", 1)[1]: row["Edema"] == "1.0" for row in csv.DictReader(file) if row["Frontal/Lateral"] == "Frontal"}
    expected = roc_auc_score(list(truth.values()), table.loc[list(truth), "logit_Edema"])
    assert report["reference_sets"]["chexpert_valid"]["findings"]["Edema"]["auroc"]["value"] == pytest.approx(expected, abs=1e-12)


def test_the_config_hash_knows_sources_by_what_they_count_as_and_not_by_their_place() -> None:
    def sha256(**sources: Source) -> str:
        config = Config(data=Data(name="mini", root="/data", sources=Sources(**sources)), model=Model(name="test_resnet"), loss=BCE(), optim=AdamW())
        return config_sha256(provenance.plain_config(config))

    assert sha256(mimic=Source(root="/a")) == sha256(mimic=Source(root="/b"))
    assert len({sha256(), sha256(mimic=Source(root="/a")), sha256(mimic=Source(root="/a", uncertain=Uncertain.ones)), sha256(chexpert=Source(root="/a"))}) == 4
