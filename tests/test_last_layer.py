"""model.refit_c by the real command: the last layer is the ridge regression that scikit-learn makes of the same features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import call
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cxr.cohort.findings import NIH_FINDINGS
from cxr.model.classifier import load_classifier
from cxr.run.reporting import read_config
from cxr.run.study import load_study, prepare_store, rows_in_store, targets_of

C = 0.003
SMALL = (
    *("data.image_size=32", "data.batch_size=160", "data.num_workers=0", "data.expert_labels=null", "trainer.max_epochs=2", "logger.mode=disabled"),
    *("model.ema_decay=0.9", "report.draws=100", f"model.refit_c={C}"),
)


@pytest.fixture(scope="module")
def run(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refit") / "run"
    done = call("train.py", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_predictions_are_those_of_scikit_learns_regression_on_the_same_features(run: Path) -> None:
    data = read_config(run, root=None, expert_labels=None).data
    study = load_study(data)
    store = prepare_store(data, study.catalogue)
    classifier = load_classifier(run / "checkpoints/best.ckpt").eval()
    table = pd.read_parquet(run / "predictions.parquet")
    train, train_rows = rows_in_store(store, study.films("train"))
    predicted_rows = pd.Index(store.image_ids).get_indexer(table.image_id)
    with torch.no_grad():
        features, of_predicted = (classifier.features(torch.from_numpy(store.images[rows])[:, None]).numpy() for rows in (train_rows, predicted_rows))
    scaler, targets = StandardScaler().fit(features.astype(np.float64)), targets_of(study, train)
    for k, finding in enumerate(NIH_FINDINGS):
        oracle = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(scaler.transform(features.astype(np.float64)), targets[:, k] == 1)
        expected = oracle.decision_function(scaler.transform(of_predicted.astype(np.float64)))
        np.testing.assert_allclose(table[f"logit_{finding}"], expected, atol=2e-3)


def test_the_weights_beside_it_are_the_checkpoints_and_the_protocol_says_what_was_done(run: Path) -> None:
    weights, net = load_file(run / "model.safetensors"), load_classifier(run / "checkpoints/best.ckpt").net.state_dict()
    assert weights.keys() == net.keys()
    assert all(torch.equal(weights[name], net[name]) for name in net)
    selection = json.loads((run / "report/report.json").read_text())["protocol"]["selection"]
    assert selection["last_layer"] == f"made again, C={C}"
    logged = pd.read_csv(run / "metrics.csv")["val/auroc_macro"].dropna()
    assert selection["value"] == pytest.approx(logged.max(), abs=1e-7)  # the epoch was chosen before


def test_a_run_that_was_killed_after_it_makes_the_same_layer_again(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "report")
    (copy / "predictions.parquet").unlink()
    done = call("train.py", f"resume={copy}")
    assert done.returncode == 0, done.stderr
    assert (copy / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(copy / "predictions.parquet"), pd.read_parquet(run / "predictions.parquet"))
