"""Mirrors run/films.py: what a report takes of the films on request, by the real command, and that nothing of it leaves the machine unasked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import call
from safetensors.numpy import load_file
from test_privacy import what_would_be_sent

from cxr.report.features import FeaturesError, read_features
from cxr.report.predictions import read_predictions

FILM = re.compile(r"\d{8}_\d{3}")


@pytest.fixture(scope="module")
def audited(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, with everything that is made of films."""
    folder = tmp_path_factory.mktemp("audited")
    small = ["trainer.max_epochs=1", "data.image_size=56", "data.batch_size=64", "data.num_workers=0", "report.draws=100", "report.reader_draws=100"]
    asked = ["report.gallery=true", "report.gallery_films=1", "report.shortcuts=true"]
    done = call("train.py", "experiment=demo", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}", *small, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "console.txt").write_text(done.stdout)
    return folder


def test_the_last_layer_makes_the_predictions_of_the_kept_features(audited: Path) -> None:
    predictions = read_predictions(audited / "predictions.parquet")
    features = read_features(audited / "features.npz", predictions.metadata["checkpoint_sha256"])
    assert features is not None
    table = predictions.table
    assert set(features.index) == set(table.image_id)
    weights = load_file(audited / "model.safetensors")
    layer = {name.rpartition(".")[2]: value for name, value in weights.items() if name.startswith("fc.")}
    logits = features.loc[table.image_id].to_numpy() @ layer["weight"].T + layer["bias"]
    np.testing.assert_allclose(logits, table.filter(like="logit_").to_numpy(), atol=1e-3)


def test_the_report_has_the_probes_of_the_features_and_the_page_of_films_beside_it(audited: Path) -> None:
    report = json.loads((audited / "report/report.json").read_text())
    told = report["shortcuts"]
    assert told["n_features"] == len(np.load(audited / "features.npz", allow_pickle=False)["features"][0])
    assert all(told[kind]["features"]["auroc"] for kind in ("view", "sex"))
    gallery = (audited / "report/gallery.html").read_text()
    assert gallery.count("<figure>") == report["gallery"]["n_shown"] > 5
    assert len({*FILM.findall(re.sub('base64,[^"]*', "", gallery))}) == report["gallery"]["n_films"]
    assert report["gallery"]["heat_maps"] == "gradcam"
    assert 'href="gallery.html"' in (audited / "report/report.html").read_text()
    assert f"they stay on this machine): {audited / 'report/gallery.html'}" in (audited / "console.txt").read_text()


def test_no_film_is_in_the_report_itself_and_none_is_sent(audited: Path) -> None:
    for name in ("report.html", "report.md", "report.json"):
        assert not FILM.search(re.sub('base64,[^"]*', "", (audited / "report" / name).read_text()))
    (place,) = audited.glob("wandb/offline-run-*")
    assert [path.name for path in place.rglob("*") if "gallery" in path.name or path.suffix in (".npz", ".jpg")] == []
    sent = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert b"holds pixels of patients" not in sent
    assert {key: kinds for key, kinds in what_would_be_sent(audited).items() if "film" in kinds} == {}


def test_what_cannot_be_made_is_one_line_and_leaves_the_report_as_it_was(audited: Path, tmp_path: Path) -> None:
    before = (audited / "report/report.json").read_bytes()
    done = call("scripts/evaluate.py", f"run={audited}", "report.gallery=true", f"store_dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: report.gallery=true needs the films, and no image store at ")
    assert (audited / "report/report.json").read_bytes() == before


def test_a_damaged_file_of_features_is_refused_by_name(audited: Path, tmp_path: Path) -> None:
    (tmp_path / "features.npz").write_bytes((audited / "features.npz").read_bytes()[:-100])
    with pytest.raises(FeaturesError, match=r"features.npz: not a whole features file .*report.shortcuts=true makes it again"):
        read_features(tmp_path / "features.npz", "any")
