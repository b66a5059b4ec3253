"""Mirrors run/predicting.py, trained.py, exporting.py, checking.py: a finished run's model on films, by the real commands or within this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from commands import call

from cxr.cohort.catalogue import find_images
from cxr.config import ExportConfig, PredictConfig
from cxr.data.decode import Reading
from cxr.data.store import build_store, open_store
from cxr.dicom import film_bytes
from cxr.report.film_table import FilmTableError
from cxr.report.predictions import read_predictions, write_predictions
from cxr.run import RunError, checking, exporting, predicting
from cxr.run.predicting import Predictor, find_films

N_FILMS = 50


@pytest.fixture(scope="module")
def known(finished_run: Path) -> pd.DataFrame:
    """What the run itself predicted of test films."""
    table = read_predictions(finished_run / "predictions.parquet", splits=("test",)).table
    return table.set_index("image_id").filter(like="logit_")[:N_FILMS]


@pytest.fixture(scope="module")
def films(mini: Path, known: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same test films, every fifth as DICOM, in two folders; and two files that are none."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "further").mkdir()
    for number, (image_id, path) in enumerate(find_images(mini, pd.Series(known.index)).items()):
        into = folder / ("further" if number % 2 else "") / image_id
        if number % 5:
            shutil.copy(path, into)
        else:
            pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            into.with_suffix(".dcm").write_bytes(film_bytes(pixels, bits=8))
    (folder / "broken.png").write_bytes((mini / "images" / known.index[0]).read_bytes()[:300])
    (folder / "words.png").write_text("no film")
    (folder / "notes.txt").write_text("nothing of a film's name")
    return folder


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taken") / "model"
    exporting.export(ExportConfig(run=str(finished_run), output=str(folder)))
    return folder


def predict(run: Path, films: Any, output: Path, **more: Any) -> None:
    predicting.predict(PredictConfig(checkpoint=str(run), images=films, output=str(output), accelerator="cpu", **more))


def logits_of(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(image_id=table.image_id.str.replace(".dcm", ".png")).set_index("image_id").filter(like="logit_").sort_index()


# --- predict ----------------------------------------------------------------------------------------------------------------------------------------


def test_the_command_tells_of_every_film_what_the_run_itself_did(finished_run: Path, films: Path, known: pd.DataFrame, tmp_path: Path) -> None:
    done = call("scripts/predict.py", f"checkpoint={finished_run}", f"images={films}", "output=told.csv", "accelerator=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 52 films could not be read" in done.stdout
    assert "findings, as fixed on nih_val, whose labels are text-mined" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["told.csv", "told.csv.json", "told.csv.quarantine.csv"]

    table = pd.read_csv(tmp_path / "told.csv")
    pd.testing.assert_frame_equal(logits_of(table), known.sort_index(), check_dtype=False, rtol=0, atol=2e-5)
    assert all(Path(path).name == image_id for path, image_id in zip(table.path, table.image_id, strict=True))
    quarantine = pd.read_csv(tmp_path / "told.csv.quarantine.csv").set_index("image_id").reason
    assert sorted(quarantine.index) == ["broken.png", "words.png"]
    assert "truncated" in quarantine["broken.png"]


def test_scores_calls_and_probabilities_are_those_that_the_report_fixed(finished_run: Path, films: Path, tmp_path: Path) -> None:
    predict(finished_run, str(films), tmp_path / "told.parquet")
    table = pd.read_parquet(tmp_path / "told.parquet")
    fixed = json.loads((finished_run / "report/report.json").read_text())["protocol"]["evaluation"]
    n_calls = 0
    for finding, point in fixed["operating_points"]["nih_test"].items():
        logit = table[f"logit_{finding}"].to_numpy(np.float64)
        np.testing.assert_allclose(table[f"score_{finding}"], 1 / (1 + np.exp(-logit)), atol=1e-6)
        assert (f"call_{finding}" in table) == (f"probability_{finding}" in table) == (point["source"] is not None)
        if point["source"] is not None:
            n_calls += 1
            refit = fixed["recalibration"]["nih_test"][finding]
            np.testing.assert_array_equal(table[f"call_{finding}"], logit >= point["rules"]["specificity"]["threshold"])
            np.testing.assert_allclose(table[f"probability_{finding}"], 1 / (1 + np.exp(-refit["slope"] * logit - refit["intercept"])), atol=1e-6)
    assert 0 < n_calls <= 14


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_film_is_read_as_the_image_store_reads_it(exported: Path, tmp_path: Path, fit: str) -> None:
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8), (300, 180))
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    cv2.imwrite(str(tmp_path / "b.jpg"), pixels)
    (tmp_path / "c.dcm").write_bytes(film_bytes(pixels, bits=8))
    paths = find_films(str(tmp_path))
    predictor = Predictor(exported, accelerator="cpu")
    predictor.reading = Reading(fit=fit)
    store = build_store(tmp_path / "store", paths, size=predictor.store_size, source="test", package_version="0", reading=predictor.reading)
    assert store.image_ids.tolist() == ["a.png", "b.jpg", "c.dcm"]
    np.testing.assert_array_equal(np.stack([predictor.read(path) for path in paths.values()]), store.images)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_killed_prediction_goes_on_and_ends_with_the_same_bytes(
    exported: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(predicting, "PART", 12)
    whole, killed = tmp_path / f"whole.{suffix}", tmp_path / f"killed.{suffix}"
    predict(exported, str(films), whole, batch_size=5)

    computed, compute = list[int](), Predictor.logits

    def until_killed(self: Predictor, batch: np.ndarray) -> Any:
        if len(computed) == 8:  # within the third part
            raise KeyboardInterrupt
        computed.append(len(batch))
        return compute(self, batch)

    monkeypatch.setattr(Predictor, "logits", until_killed)
    with pytest.raises(KeyboardInterrupt):
        predict(exported, str(films), killed, batch_size=5)
    assert not killed.exists()
    (tmp_path / f"killed.{suffix}.partial" / "000002.part.tmp").write_bytes(b"half a part")

    monkeypatch.setattr(Predictor, "logits", lambda self, batch: computed.append(-len(batch)) or compute(self, batch))
    predict(exported, str(films), killed, batch_size=5)
    assert sum(n for n in computed if n < 0) == -26  # of 50 films the first 24, two parts, were kept
    for beside in ("", ".quarantine.csv"):
        assert (tmp_path / f"killed.{suffix}{beside}").read_bytes() == (tmp_path / f"whole.{suffix}{beside}").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_nothing_is_written_over_and_nothing_mixed(
    exported: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    some, all_of_them, output = str(films / "further"), str(films), tmp_path / "told.csv"
    predict(exported, some, output)
    before = output.read_bytes()
    with pytest.raises(FilmTableError, match=r"told\.csv is there already, made with other values of films_sha256; name another output"):
        predict(exported, all_of_them, output)
    with caplog.at_level("INFO"):
        predict(exported, some, output)
    assert "This prediction is finished" in caplog.text
    assert output.read_bytes() == before

    (tmp_path / "mine.csv").write_text("something of mine")
    with pytest.raises(FilmTableError, match="does not say what made it; name another output, or delete it"):
        predict(exported, some, tmp_path / "mine.csv")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "logits", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(exported, some, tmp_path / "half.csv")
    with pytest.raises(FilmTableError, match=r"half\.csv\.partial holds a part of another prediction, made with other values of films_sha256, batch_size"):
        predict(exported, all_of_them, tmp_path / "half.csv", batch_size=3)


def test_films_that_share_a_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("one/view1.png", "two/view1.png", "two/view2.JPG", "two/.hidden.png", "two/words.txt", "out/three.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_films([str(tmp_path), str(tmp_path / "one/*.png")], without=tmp_path / "out")
    assert found == {name: tmp_path / name for name in ("one/view1.png", "two/view1.png", "two/view2.JPG")}
    assert find_films(str(tmp_path / "**/*2.JPG")) == {"view2.JPG": tmp_path / "two/view2.JPG"}
    assert find_films(str(tmp_path / "two/words.txt")) == {"words.txt": tmp_path / "two/words.txt"}  # whoever names it means it
    (tmp_path / "empty").mkdir()
    for wrong, why in (("empty", "no film .* in this folder"), ("nowhere", "no such file"), ("*.dcm", "no such file")):
        with pytest.raises(RunError, match=why):
            find_films(str(tmp_path / wrong))


def test_films_of_which_none_can_be_read_are_an_error(exported: Path, films: Path, tmp_path: Path) -> None:
    with pytest.raises(FilmTableError, match=r"none of the 2 films could be read; why is in .*told\.csv\.quarantine\.csv"):
        predict(exported, [str(films / "broken.png"), str(films / "words.png")], tmp_path / "told.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["told.csv.quarantine.csv"]


def test_without_a_report_there_are_scores_and_a_line_that_says_so(finished_run: Path, films: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = tmp_path / "bare"
    (bare / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        shutil.copy(finished_run / name, bare / name)
    with caplog.at_level("INFO"):
        predict(bare / "checkpoints/best.ckpt", str(films / "further"), tmp_path / "told.csv")
    assert "scores only: this model has no report" in caplog.text
    kinds = {column.partition("_")[0] for column in pd.read_csv(tmp_path / "told.csv").columns}
    assert kinds == {"image", "path", "logit", "score"}

    (bare / "report").mkdir()
    shutil.copy(finished_run / "report/report.json", bare / "report")
    predictions = read_predictions(finished_run / "predictions.parquet")
    write_predictions(bare / "predictions.parquet", predictions.table, predictions.metadata | {"checkpoint_sha256": "another"})
    with pytest.raises(RunError, match=r"is of another checkpoint than .*best\.ckpt"):
        Predictor(bare)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: folder / "nowhere", "neither a run folder .* nor what scripts/export.py wrote"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x") and folder, "is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}") and folder, "is damaged"),
    ],
    ids=["nothing", "weights", "facts"],
)
def test_what_is_no_model_is_refused(exported: Path, tmp_path: Path, spoil: Callable[[Path], Path], told: str) -> None:
    shutil.copytree(exported, tmp_path / "model")
    with pytest.raises(RunError, match=told):
        Predictor(spoil(tmp_path / "model"))


def test_weights_of_another_export_are_noticed(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "model")
    content = bytearray((exported / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="its sha256 differs"):
        Predictor(tmp_path / "model")


def test_one_film_for_whoever_shows_it(finished_run: Path, films: Path, known: pd.DataFrame) -> None:
    predictor = Predictor(finished_run, accelerator="cpu")
    path = next(path for path in find_films(str(films)).values() if path.name in known.index)
    told = predictor.predict(path)
    assert [each.finding for each in told] == predictor.findings
    np.testing.assert_allclose([each.logit for each in told], known.loc[path.name], rtol=0, atol=2e-5)
    for each in told:
        assert (each.call is None) == (each.operating is None)
        if each.operating is not None:
            assert each.call == (each.logit >= each.operating["threshold"])
    assert predictor.centre(predictor.read(path)).shape == (predictor.image_size,) * 2


def test_heat_maps_lie_beside_the_table_one_for_each_call(exported: Path, films: Path, tmp_path: Path) -> None:
    predict(exported, str(films / "further"), tmp_path / "told.csv", heat_maps=True)
    table = pd.read_csv(tmp_path / "told.csv").set_index("image_id").filter(like="call_")
    called = {f"{image_id}.{column.removeprefix('call_')}.png" for image_id, row in table.iterrows() for column, call in row.items() if call}
    drawn = tmp_path / "told.csv.heat_maps"
    assert {path.name for path in drawn.iterdir()} == called
    assert called

    predictor, name = Predictor(exported, accelerator="cpu"), min(called)
    image_id, finding, _ = name.rsplit(".", 2)
    told = {each.finding: each for each in predictor.predict(films / "further" / image_id, heat_maps=[finding])}
    heat = told[finding].heat
    assert heat is not None
    assert heat.shape == (64, 64)
    assert sum(each.heat is not None for each in told.values()) == 1
    film, picture = predictor.centre(predictor.read(films / "further" / image_id)), cv2.imread(str(drawn / name))
    cold = heat == 0
    np.testing.assert_array_equal(picture[cold], np.repeat(film[cold][:, None], 3, axis=1))  # where nothing speaks for it, the film itself


# --- export -----------------------------------------------------------------------------------------------------------------------------------------


def test_the_graph_gives_the_runs_scores_of_stored_films_for_any_number(exported: Path, finished_run: Path, mini: Path, known: pd.DataFrame) -> None:
    store = open_store(mini.parent / "stores" / "mini_73")
    rows = pd.Index(store.image_ids).get_indexer(known.index)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for n in (1, 3, 8, N_FILMS):
        score, logit = session.run(["score", "logit"], {"film": store.images[rows[:n]][:, None]})
        np.testing.assert_allclose(logit, known[:n], rtol=0, atol=1e-4)
        np.testing.assert_allclose(score, 1 / (1 + np.exp(-known[:n].to_numpy(np.float64))), rtol=0, atol=1e-5)


def test_an_exported_model_says_what_its_run_says(exported: Path, finished_run: Path, films: Path) -> None:
    path = next(iter(find_films(str(films / "further")).values()))
    assert Predictor(exported, accelerator="cpu").predict(path) == Predictor(finished_run, accelerator="cpu").predict(path)


def test_the_facts_and_the_card_come_from_the_run(exported: Path, finished_run: Path, mini: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    facts, report = json.loads((exported / "config.json").read_text()), json.loads((finished_run / "report/report.json").read_text())
    assert (facts["image_size"], facts["store_size"], facts["reading"]) == (64, 73, {"fit": "pad", "dicom_window": "voi"})
    assert facts["protocol"]["evaluation_sha256"] == report["protocol"]["evaluation"]["sha256"]
    assert facts["onnx"]["max_difference"] <= facts["onnx"]["tolerance"] == 1e-5
    card = (exported / "README.md").read_text()
    macro = report["reference_sets"]["all_findings_test"]["macro"]["auroc"]
    assert "{value:.3f} [{lo:.3f}, {hi:.3f}]".format(**macro) in card
    effusion = report["reference_sets"]["all_findings_test"]["findings"]["Effusion"]["auroc"]
    assert "{value:.3f} [{lo:.3f}, {hi:.3f}]".format(**effusion) in card
    for words in ("Not a medical device", "4343882583", "held-out", "films/s by onnxruntime", *report["attribution"]):
        assert words in card
    for secret in (str(mini), str(finished_run), report["protocol"]["provenance"]["host"] + " "):
        assert secret not in card + json.dumps(facts)


def test_a_graph_that_differs_is_not_exported(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr.model import graph

    monkeypatch.setattr(graph, "write_graph", lambda path, *_, **__: path.write_bytes(b""))
    monkeypatch.setattr(graph, "open_graph", lambda *_, **__: None)
    monkeypatch.setattr(graph, "largest_difference", lambda *_: 2e-5)
    with pytest.raises(RunError, match=r"differ from torch's by 2\.0e-05 at most .*, which is more than 1e-05: nothing is exported"):
        exporting.export(ExportConfig(run=str(finished_run), output=str(tmp_path / "model")))
    assert not list(tmp_path.iterdir())
    (tmp_path / "model").mkdir()
    with pytest.raises(RunError, match="there already"):
        exporting.export(ExportConfig(run=str(finished_run), output=str(tmp_path / "model")))


# --- check ------------------------------------------------------------------------------------------------------------------------------------------


def test_the_installation_and_an_exported_model_predict_as_expected(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        checking.check(None)
        checking.check(str(exported))
    assert "The installation predicts as expected: logits differ by" in caplog.text
    assert "predicts as when it was exported" in caplog.text


def test_an_installation_that_predicts_otherwise_is_told_with_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr.data import decode

    monkeypatch.setattr(decode.cv2, "INTER_AREA", cv2.INTER_NEAREST)  # another reduction of films
    monkeypatch.setitem(checking.WITH, "torch", "1.0")
    with pytest.raises(RunError, match=r"predicts otherwise than expected: logits differ by .*, more than 0\.005; other versions .*torch .* \(then 1\.0\)"):
        checking.check(None)
