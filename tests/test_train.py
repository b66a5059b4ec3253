"""The main job, end to end, by the real commands: films in, a report out, and every number of it recomputed from the files by other means."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from commands import call
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.cohort.findings import ALL_FINDINGS, FOUR_FINDINGS, NIH_FINDINGS
from cxr.config import BCE, PROJECT, AdamW, Augment, Config, Data, ExpertPatients, Model, Trainer
from cxr.data.datamodule import FilmData
from cxr.data.store import Store
from cxr.model.classifier import Classifier
from cxr.model.interruption import StopRequest
from cxr.report.predictions import read_predictions
from cxr.resume import file_sha256
from cxr.run import reporting, training
from cxr.run.study import Study, load_study, prepare_store

UNIONS = {
    "Airspace opacity": ["Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"],
    "Nodule or mass": ["Nodule", "Mass"],
    "Abnormal": list(NIH_FINDINGS),
}
EXPERTS = {  # reference set -> file, image column, findings
    "four_findings_validation": ("four_findings_expert_labels/validation_labels.csv", "Image Index", FOUR_FINDINGS),
    "four_findings_test": ("four_findings_expert_labels/test_labels.csv", "Image Index", FOUR_FINDINGS),
    "all_findings_test": ("all_findings_expert_labels/test_labels.csv", "Image ID", ALL_FINDINGS),
}


def truths(root: Path) -> dict[str, dict[str, dict[str, float]]]:
    """reference set -> image -> finding -> 1 or 0, read with the csv module."""
    with (root / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        text_mined = {row[0]: {f: float(f in row[1].split("|")) for f in NIH_FINDINGS} for row in list(csv.reader(file))[1:]}
    test = (root / "test_list.txt").read_text().split()
    told = {"nih_val": text_mined, "nih_test": {image: text_mined[image] for image in test}}
    for name, (path, image, findings) in EXPERTS.items():
        with (root / "expert_labels" / path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        told[name] = {row[image]: {f: float((row.get(f) or row[f.replace("_", " ")]) == "YES") for f in findings} for row in rows}
    return told


def score(rows: pd.DataFrame, finding: str, prevalence: dict[str, float]) -> np.ndarray:
    """The model's own logit, or the largest of the union's logits less their training log-odds."""
    if finding in NIH_FINDINGS:
        return rows[f"logit_{finding}"].to_numpy(np.float64)
    rates = {name: min(max(prevalence[name], 0.001), 0.999) for name in UNIONS[finding]}
    return np.max([rows[f"logit_{name}"].to_numpy(np.float64) - np.log(rate / (1 - rate)) for name, rate in rates.items()], axis=0)


def check_against_sklearn(folder: Path, root: Path) -> int:
    """Recomputes every AUROC and AUPRC of the report; returns how many there were."""
    report = json.loads((folder / "report/report.json").read_text())
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    prevalence = read_predictions(folder / "predictions.parquet").metadata["train_prevalence"]
    n_checked = 0
    for name, truth in truths(root).items():
        rows = table[table.split == "val"] if name == "nih_val" else table[table.image_id.isin(truth)]
        part = report["reference_sets"][name]
        assert part["n_images"] == len(rows)
        for finding, row in part["findings"].items():
            positive = np.array([truth[image][finding] for image in rows.image_id]) == 1
            assert (row["n_pos"], row["n_neg"]) == (positive.sum(), (~positive).sum())
            assert row["n_pos_patients"] == rows.patient_id[positive].nunique()
            if finding in ("Fracture", "Other"):
                assert (row["auroc"], row["reason"]) == (None, "not predicted by this model")
                continue
            if row["auroc"] is None:
                assert row["reason"] in ("no positive image", "no negative image")
                assert positive.all() or not positive.any()
                continue
            scores = score(rows, finding, prevalence)
            assert row["auroc"]["value"] == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
            assert row["auprc"]["value"] == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
            for metric in ("auroc", "auprc"):
                assert row[metric]["lo"] <= row[metric]["value"] <= row[metric]["hi"]
            n_checked += 1
        macro = part["macro"]
        if macro["auroc"]:
            assert macro["auroc"]["value"] == pytest.approx(np.mean([part["findings"][f]["auroc"]["value"] for f in macro["findings"]]), abs=1e-12)
    return n_checked


def test_a_run_leaves_all_that_it_promises_in_one_folder(finished_run: Path) -> None:
    for name in ("config.yaml", "checkpoints/best.ckpt", "model.safetensors", "predictions.parquet", "metrics.csv", "train.log"):
        assert (finished_run / name).stat().st_size > 0
    for name in (
        "report.json",
        "report.html",
        "report.md",
        "figures/auroc.png",
        "figures/training.png",
        "figures/nih_test_roc.png",
        "figures/all_findings_test_readers.png",
    ):
        assert (finished_run / "report" / name).stat().st_size > 0
    assert not list(finished_run.rglob("*.tmp")) + list(finished_run.rglob("*.partial"))


def test_every_number_equals_sklearns_from_the_saved_predictions(finished_run: Path, mini: Path) -> None:
    assert check_against_sklearn(finished_run, mini) >= 45


def test_the_demo_learns_the_miniature(finished_run: Path) -> None:
    macro = json.loads((finished_run / "report/report.json").read_text())["reference_sets"]["all_findings_test"]["macro"]
    assert len(macro["findings"]) >= 12
    assert "Hernia" in macro["left_out"]
    assert macro["auroc"]["value"] > 0.95


def test_the_console_says_who_trains_where_it_is_logged_and_what_came_of_it(finished_run: Path) -> None:
    told = (finished_run / "console.txt").read_text()
    for part in ("W&B: offline", "release v2020", "Excluding the", "epoch 1 of", "all_findings_test", str(finished_run / "report/report.html")):
        assert part in told


def test_the_chosen_checkpoint_is_the_best_epoch_and_its_auroc_is_that_of_the_statistics(finished_run: Path, mini: Path) -> None:
    logged = pd.read_csv(finished_run / "metrics.csv")["val/auroc_macro"].dropna()
    protocol = json.loads((finished_run / "report/report.json").read_text())["protocol"]
    assert protocol["selection"]["value"] == pytest.approx(logged.max(), abs=1e-7)
    table = pq.read_table(finished_run / "predictions.parquet").to_pandas().query("split == 'val'")
    truth = truths(mini)["nih_val"]
    areas = [roc_auc_score([truth[image][f] for image in table.image_id], table[f"logit_{f}"]) for f in protocol["selection"]["findings"]]
    assert np.mean(areas) == pytest.approx(logged.max(), abs=1e-6)


def test_predictions_carry_what_made_them(finished_run: Path) -> None:
    metadata = read_predictions(finished_run / "predictions.parquet").metadata
    assert metadata["checkpoint_sha256"] == file_sha256(finished_run / "checkpoints/best.ckpt")
    assert metadata["store"]["size"] == 73
    assert {"config_sha256", "package_version"} <= set(metadata)
    assert metadata["protocol"]["expert_validation_patients"] == "exclude"


def test_the_saved_weights_are_those_of_the_checkpoint(finished_run: Path) -> None:
    weights = load_file(finished_run / "model.safetensors")
    net = Classifier.load_from_checkpoint(finished_run / "checkpoints/best.ckpt", map_location="cpu", weights_only=True).net
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "pytorch_lightning"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = ["evaluate.py", "run={run}"]
runpy.run_path("{script}", run_name="__main__")
"""


def test_evaluate_rebuilds_the_same_report_from_the_files_without_torch(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("report", "checkpoints", "wandb", "model.safetensors"))
    code = WITHOUT_TORCH.format(run=copy, script=PROJECT / "scripts/evaluate.py")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((folder / "report/report.json").read_text()) for folder in (finished_run, copy))
    before["protocol"].pop("provenance")
    after["protocol"].pop("provenance")
    assert after == before
    assert (copy / "report/figures/auroc.png").read_bytes() == (finished_run / "report/figures/auroc.png").read_bytes()


def test_evaluate_refuses_predictions_of_other_splits(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("report", "checkpoints", "wandb"))
    text = (copy / "config.yaml").read_text()
    assert "split_seed: 0" in text
    (copy / "config.yaml").write_text(text.replace("split_seed: 0", "split_seed: 1"))
    done = call("scripts/evaluate.py", f"run={copy}")
    assert done.returncode == 1
    assert "the run was made with other splits or labels" in done.stderr
    assert not (copy / "report").exists()


def test_every_look_at_the_test_set_is_written_down_and_a_changed_protocol_is_told(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints", "wandb"))
    protocol = json.loads((copy / "report/report.json").read_text())["protocol"]
    (look,) = (json.loads(line) for line in (copy / "looks.jsonl").read_text().splitlines())
    assert look["evaluation_sha256"] == protocol["evaluation"]["sha256"]
    assert protocol["provenance"]["looks"] == {"n": 1, "n_protocols": 1}

    before = (copy / "report/report.json").read_bytes()
    done = call("scripts/evaluate.py", f"run={copy}", "mapping.airspace_opacity=[Edma]")
    assert done.returncode == 1
    assert done.stderr.startswith("error: mapping.airspace_opacity: Edma is no finding of the model; it has Atelectasis")
    assert (copy / "report/report.json").read_bytes() == before
    assert len((copy / "looks.jsonl").read_text().splitlines()) == 1

    done = call("scripts/evaluate.py", f"run={copy}", "mapping.method=noisy_or", "report.draws=100", "report.reader_draws=100")
    assert done.returncode == 0, done.stderr
    changed = json.loads((copy / "report/report.json").read_text())
    assert changed["protocol"]["evaluation"]["mapping"]["method"] == "noisy_or"
    assert changed["protocol"]["evaluation"]["settings"]["draws"] == 100
    assert changed["protocol"]["config_sha256"] == protocol["config_sha256"]
    assert changed["protocol"]["provenance"]["looks"] == {"n": 2, "n_protocols": 2}
    assert "2 different evaluation protocols" in (copy / "report/report.html").read_text()


def test_a_finding_that_does_not_exist_stops_a_training_before_it_begins(mini: Path, tmp_path: Path) -> None:
    done = call("train.py", "experiment=demo", f"data.root={mini}", f"hydra.run.dir={tmp_path}", "mapping.nodule_or_mass=[Lump]")
    assert done.returncode == 1
    assert "mapping.nodule_or_mass: Lump is no finding of the model" in done.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_evaluate_says_what_is_no_run_folder(tmp_path: Path) -> None:
    done = call("scripts/evaluate.py", f"run={tmp_path}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no run folder" in done.stderr


class Watched(np.ndarray):
    """The store's pixels, writing down which rows are read."""

    rows: set[int]

    def __getitem__(self, key):
        row = key[0] if isinstance(key, tuple) else key
        self.rows.add(int(row))
        return np.asarray(self)[key]

    def take(self, indices, *arguments, **named):
        self.rows |= {int(row) for row in indices}
        return np.asarray(self).take(indices, *arguments, **named)


def watched_study(mini: Path, policy: ExpertPatients = ExpertPatients.exclude) -> tuple[Config, Study, Store]:
    data = Data(
        name="mini",
        root=str(mini),
        expert_labels=str(mini / "expert_labels"),
        image_size=32,
        store_dir=str(mini.parent / "stores"),
        num_workers=0,
        batch_size=64,
        expert_validation_patients=policy,
    )
    config = Config(
        data=data, model=Model(name="test_resnet"), augment=Augment(enabled=False), loss=BCE(), optim=AdamW(), trainer=Trainer(max_epochs=1, accelerator="cpu")
    )
    study = load_study(data)
    store = prepare_store(data, study.catalogue)
    pixels = np.array(store.images).view(Watched)
    pixels.rows = set()
    return config, study, Store(pixels, store.image_ids, {}, store.meta)


def test_the_test_sets_are_not_opened_while_training(mini: Path, tmp_path: Path) -> None:
    config, study, store = watched_study(mini)
    row_of = {image: row for row, image in enumerate(store.image_ids)}
    expected = {row_of[image] for table in (study.splits.train, study.splits.val) for image in table.image_id}
    trainer, classifier, data = training.fit(config, study, store, tmp_path, [], stop=StopRequest(), identity={})
    read = set(store.images.rows)
    assert read <= expected
    assert {row_of[image] for image in study.splits.val.image_id} <= read  # the watch works

    table = training.predict(trainer, classifier, data, study)
    assert {row_of[image] for image in study.splits.test.image_id} <= store.images.rows
    assert sorted(table.image_id) == sorted([*study.splits.val.image_id, *study.splits.test.image_id, *study.splits.expert_validation.image_id])


def test_expert_validation_is_null_with_its_reason_when_its_patients_were_kept(mini: Path) -> None:
    _, study, _ = watched_study(mini, ExpertPatients.keep)
    assert reporting._unreported(study) == {"four_findings_validation": {"findings": None, "reason": "trained on these patients"}}
    assert "four_findings_validation" not in reporting.reference_sets(study)


def test_without_expert_labels_only_the_text_mined_sets_are_reported_and_the_others_say_why(mini: Path) -> None:
    study = load_study(Data(name="mini", root=str(mini), expert_labels=None))
    assert list(reporting.reference_sets(study)) == ["nih_val", "nih_test"]
    assert {part["reason"] for part in reporting._unreported(study).values()} == {"no expert labels were given"}
    assert set(reporting._unreported(study)) == set(EXPERTS)


def test_two_processes_train_as_one_job_and_predict_every_film_once(mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = call(
        "train.py",
        f"data.root={mini}",
        f"data.store_dir={mini.parent / 'stores'}",
        f"hydra.run.dir={folder}",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.max_epochs=1",
        "optim.lr=2e-3",
        "data.validation=0.14",
        "report.draws=100",
        "report.reader_draws=100",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("W&B: offline") == 1
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1

    data = Data(name="mini", root=str(mini), expert_labels=str(mini / "expert_labels"), image_size=64, store_dir=str(mini.parent / "stores"), validation=0.14)
    study = load_study(data)
    store = prepare_store(data, study.catalogue)
    wanted = pd.concat([study.splits.val, study.splits.test, study.splits.expert_validation])
    assert len(wanted) % 2 == 1  # a set that two processes cannot halve
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert sorted(table.image_id) == sorted(wanted.image_id)

    # one process with the same checkpoint
    classifier = Classifier.load_from_checkpoint(folder / "checkpoints/best.ckpt", map_location="cpu", weights_only=True).eval()
    rows = pd.Index(store.image_ids).get_indexer(table.image_id)
    films = FilmData(
        store,
        train_rows=rows,
        train_targets=np.zeros((len(rows), 14), np.float32),
        val_rows=rows,
        val_targets=np.zeros((len(rows), 14), np.float32),
        image_size=64,
        batch_size=32,
        num_workers=0,
        augment=None,
        seed=0,
    )
    with torch.no_grad():
        logits = torch.cat([classifier(batch["image"]) for batch in films.predict_loader(rows)]).numpy()
    mine = table[[f"logit_{finding}" for finding in NIH_FINDINGS]].to_numpy()
    assert abs(mine - logits).max() <= 1e-5

    logged = pd.read_csv(folder / "metrics.csv")["val/auroc_macro"].dropna()
    val, truth = table[table.split == "val"], truths(mini)["nih_val"]
    monitored = read_predictions(folder / "predictions.parquet").metadata["protocol"]["selection"]["findings"]
    alone = np.mean([roc_auc_score([truth[image][f] for image in val.image_id], val[f"logit_{f}"]) for f in monitored])
    assert logged.max() == pytest.approx(alone, abs=1e-6)


def test_without_data_one_message_says_what_where_how_and_the_miniatures_command(tmp_path: Path) -> None:
    done = call("train.py", "experiment=densenet_cxr14", f"data.root={tmp_path}/nowhere", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    for told in (f"{tmp_path}/nowhere", "Data_Entry_2017_v2020.csv", "test_list.txt", "https://", "data.root=", "python train.py"):
        assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_and_unreadable_films_are_refused_or_reported_as_asked(mini: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(mini, tmp_path / "mini")
    films = sorted((copy / "images").iterdir())
    films[0].unlink()
    films[1].write_bytes(films[1].read_bytes()[:200])
    (copy / "miniature.json").rename(tmp_path / "miniature.json")
    command = ("scripts/prepare.py", "data=cxr14", f"data.root={copy}", f"data.store_dir={tmp_path / 'stores'}", "data.image_size=64")
    refused = call(*command)
    assert refused.returncode == 1
    assert "images are missing: 1 of 736 train_val, 1 of 464 test" in refused.stderr
    assert "1 of them unreadable" in refused.stderr
    assert "data.missing_images=allow" in refused.stderr
    allowed = call(*command, "data.missing_images=allow")
    assert allowed.returncode == 0, allowed.stderr
    assert f"unreadable: {films[1].name}: truncated" in allowed.stdout


def test_a_training_that_diverges_ends_with_one_line_and_a_failed_wandb_run(mini: Path, tmp_path: Path) -> None:
    from test_tracking import records

    done = call(
        "train.py",
        f"data.root={mini}",
        f"data.store_dir={mini.parent / 'stores'}",
        f"hydra.run.dir={tmp_path}",
        "optim=sgd",
        "optim.lr=100",
        "optim.warmup_steps=0",
        "trainer.gradient_clip_val=0",
        "trainer.max_epochs=2",
        "model.name=test_vit",
    )
    assert done.returncode == 1
    assert "the training loss was no finite number for" in done.stderr
    named = re.findall(r"\d{8}_\d{3}\.png", done.stderr)
    assert len(set(named)) == 32  # a batch
    assert set(named) <= {path.name for path in (mini / "images").iterdir()}
    assert "Traceback" not in done.stderr
    assert [record.exit.exit_code for record in records(tmp_path) if record.WhichOneof("record_type") == "exit"] == [1]
    assert not (tmp_path / "predictions.parquet").exists()


def test_real_films_give_a_real_report(real: Path, tmp_path: Path) -> None:
    root = tmp_path / "cxr14"
    root.mkdir()
    for path in (real / "data/cxr14_256").iterdir():
        (root / path.name).symlink_to(path)
    (root / "expert_labels").symlink_to(real / "data/google_expert_labels")
    done = call(
        "train.py",
        "experiment=real_sample",
        f"data.root={root}",
        f"data.expert_labels={root / 'expert_labels'}",
        f"data.store_dir={tmp_path / 'stores'}",
        f"hydra.run.dir={tmp_path / 'run'}",
        "model=tiny",
        "data.image_size=64",
        "trainer.max_epochs=1",
        "report.draws=100",
        "report.reader_draws=100",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sets = json.loads((tmp_path / "run/report/report.json").read_text())["reference_sets"]
    assert (sets["nih_test"]["n_images"], sets["nih_test"]["n_missing_images"]) == (620, 24_976)
    assert (sets["all_findings_test"]["n_images"], sets["all_findings_test"]["n_missing_images"]) == (400, 410)
    assert (sets["four_findings_test"]["n_images"], sets["four_findings_test"]["n_missing_images"]) == (408, 1_554)
    assert sets["all_findings_test"]["macro"]["available_only"]
    assert set(sets["all_findings_test"]["views"]) == {"PA"}
    assert check_against_sklearn(tmp_path / "run", root) >= 43


def test_the_real_originals_become_a_store_and_spoiled_ones_a_quarantine(real: Path, tmp_path: Path) -> None:
    root = tmp_path / "cxr14"
    (root / "images").mkdir(parents=True)
    source = real / "data/cxr14_1024"
    for path in source.iterdir():
        if path.is_file():
            (root / path.name).symlink_to(path)
    films = sorted((source / "images").iterdir())
    for film in films:
        shutil.copy(film, root / "images")
        (root / "images" / film.name).chmod(0o644)
    command = ("scripts/prepare.py", "data=cxr14", f"data.root={root}", "data.missing_images=allow")
    done = call(*command, f"data.store_dir={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    assert "148 images in" in done.stdout
    assert (tmp_path / "whole/cxr14_256/quarantine.csv").read_text().splitlines() == ["image_id,reason"]

    for film, spoil in zip(films, (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"this is text"), strict=False):
        (root / "images" / film.name).write_bytes(spoil(film.read_bytes()))
    done = call(*command, f"data.store_dir={tmp_path / 'spoiled'}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "spoiled/cxr14_256/quarantine.csv").open(newline="") as file:
        quarantine = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
    assert list(quarantine) == [film.name for film in films[:3]]
    assert [next(word for word in ("truncated", "empty", "not a PNG") if word in reason) for reason in quarantine.values()] == [
        "truncated",
        "empty",
        "not a PNG",
    ]
    whole, spoiled = (np.load(tmp_path / name / "cxr14_256/images.npy") for name in ("whole", "spoiled"))
    np.testing.assert_array_equal(whole[3:], spoiled)


def test_a_multirun_on_two_devices_is_refused_with_the_way_out(mini: Path, tmp_path: Path) -> None:
    done = call("train.py", "-m", f"data.root={mini}", f"hydra.sweep.dir={tmp_path}", "seed=0,1", "trainer.devices=2", "trainer.strategy=ddp")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert told
    assert all("a multirun cannot give 2 devices to each of its jobs" in line and "for seed in 0 1 2" in line for line in told)
    assert not list(tmp_path.rglob("checkpoints"))
