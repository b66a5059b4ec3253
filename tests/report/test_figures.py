"""Mirrors report/figures.py: what is drawn is what was computed, of the right films, and never crashes for want of numbers."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from cxr.report import figures
from cxr.report.evaluate import evaluate
from cxr.report.predictions import Predictions

FINDINGS = ["Effusion", "Mass", "Hernia"]  # Hernia: nobody has it


def films(n: int, first_patient: int) -> pd.DataFrame:
    rng = np.random.default_rng(first_patient)
    patients = first_patient + np.arange(n) // 2
    table = pd.DataFrame({"image_id": [f"{patient:08d}_{i:03d}.png" for i, patient in enumerate(patients)], "patient_id": patients, "view": "PA", "age": 50.0})
    return table.assign(Effusion=(rng.random(n) < 0.4) * 1.0, Mass=np.where(np.arange(n) % 7 == 0, np.nan, rng.random(n) < 0.3), Hernia=0.0)


def predicted(table: pd.DataFrame) -> Predictions:
    rng = np.random.default_rng(5)
    logits = {f"logit_{finding}": rng.normal(size=len(table)) + table[finding].fillna(0.0) for finding in FINDINGS}
    return Predictions(table[["image_id", "patient_id"]].assign(split="test", **logits), FINDINGS, {})


@pytest.fixture
def references() -> dict[str, pd.DataFrame]:
    return {"nih_val": films(80, 100), "nih_test": films(120, 500)}


@pytest.fixture
def predictions(references: dict[str, pd.DataFrame]) -> Predictions:
    return predicted(pd.concat(references.values(), ignore_index=True))


def report_of(predictions: Predictions, references: dict[str, pd.DataFrame]) -> dict[str, Any]:
    n_listed = {name: len(table) for name, table in references.items()}
    return {"reference_sets": evaluate(predictions, references, n_listed=n_listed, n_draws=20, seed=0, macro_available=False)}


def drawn_curves(figure: Any) -> dict[str, np.ndarray]:
    return {panel.get_title("left"): line.get_xydata() for panel in figure.axes for line in panel.lines if line.get_gid() == "curve"}


@pytest.fixture
def metrics_csv(tmp_path: Path) -> Path:
    rows = [{"epoch": 0, "step": 4, "train/loss": 0.7}, {"epoch": 0, "step": 9, "val/loss": 0.6, "val/auroc_macro": 0.71}]
    rows += [{"epoch": 1, "step": 14, "train/loss": 0.5}, {"epoch": 1, "step": 19, "val/loss": 0.5, "val/auroc_macro": 0.69}]
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path / "metrics.csv"


def test_every_figure_is_a_picture_in_reading_order(tmp_path: Path, predictions: Predictions, references: dict[str, pd.DataFrame], metrics_csv: Path) -> None:
    pictures = figures.draw(tmp_path, report_of(predictions, references), predictions, references, metrics_csv=metrics_csv)

    assert list(pictures) == ["auroc", "nih_val_roc", "nih_val_precision_recall", "nih_test_roc", "nih_test_precision_recall", "training"]
    for path in pictures.values():
        pixels = imread(path)
        assert pixels.shape[1] == 1650
        assert len(np.unique(pixels[::7, ::7, :3] @ [1.0, 256.0, 65536.0])) > 10


def test_rows_meet_by_image_id_so_that_shuffled_predictions_draw_the_same_bytes(
    tmp_path: Path, predictions: Predictions, references: dict[str, pd.DataFrame]
) -> None:
    report = report_of(predictions, {"nih_test": references["nih_test"]})
    shuffled = Predictions(predictions.table.sample(frac=1.0, random_state=1, ignore_index=True), predictions.findings, {})
    drawn = []
    for name, told in (("straight", predictions), ("shuffled", shuffled)):
        (tmp_path / name).mkdir()
        pictures = figures.draw(tmp_path / name, report, told, references, metrics_csv=tmp_path / "none.csv")
        drawn.append({title: path.read_bytes() for title, path in pictures.items()})

    assert drawn[0] == drawn[1]


def test_the_areas_under_the_drawn_lines_are_the_reported_numbers(predictions: Predictions, references: dict[str, pd.DataFrame]) -> None:
    part = report_of(predictions, references)["reference_sets"]["nih_test"]
    roc = drawn_curves(figures.curves("roc", "nih_test", part, predictions, references["nih_test"]))
    precision_recall = drawn_curves(figures.curves("precision_recall", "nih_test", part, predictions, references["nih_test"]))

    assert set(roc) == set(precision_recall) == {"Effusion", "Mass"}
    for finding in roc:
        x, y = roc[finding].T
        assert np.trapezoid(y, x) == pytest.approx(part["findings"][finding]["auroc"]["value"], abs=1e-12)
        recall, precision = precision_recall[finding].T
        assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(part["findings"][finding]["auprc"]["value"], abs=1e-12)


def test_a_finding_without_a_number_is_called_undefined_and_its_reason_is_given(predictions: Predictions, references: dict[str, pd.DataFrame]) -> None:
    sets = report_of(predictions, references)["reference_sets"]
    forest = [text.get_text() for panel in figures.forest(sets).axes for text in panel.texts]
    hernia = next(
        panel for panel in figures.curves("roc", "nih_test", sets["nih_test"], predictions, references["nih_test"]).axes if panel.get_title("left") == "Hernia"
    )

    assert forest.count("undefined") == 2 + sum(part["macro"]["auroc"] is None for part in sets.values())
    assert [text.get_text() for text in hernia.texts] == ["undefined", "no positive image"]
    assert not hernia.lines


def test_the_best_epoch_is_marked(metrics_csv: Path) -> None:
    areas = figures.training(pd.read_csv(metrics_csv)).axes[1]

    assert areas.get_title("left") == "val/auroc_macro, best: 0.710 after epoch 1"


def test_without_metrics_the_training_is_left_out(tmp_path: Path, predictions: Predictions, references: dict[str, pd.DataFrame]) -> None:
    pictures = figures.draw(tmp_path, {"reference_sets": {}}, predictions, references, metrics_csv=tmp_path / "none.csv")

    assert "training" not in pictures
    assert not (tmp_path / "training.png").exists()


def test_a_set_with_no_present_image_has_no_curves_and_stays_in_the_overview(tmp_path: Path, references: dict[str, pd.DataFrame]) -> None:
    predictions = predicted(references["nih_val"])
    report = report_of(predictions, references)
    assert report["reference_sets"]["nih_test"]["n_images"] == 0

    pictures = figures.draw(tmp_path, report, predictions, references, metrics_csv=tmp_path / "none.csv")

    assert list(pictures) == ["auroc", "nih_val_roc", "nih_val_precision_recall"]
    assert [panel.get_title("left") for panel in figures.forest(report["reference_sets"]).axes] == ["nih_val", "nih_test"]


def test_nothing_at_all_to_draw_draws_the_overview_without_marks(tmp_path: Path, references: dict[str, pd.DataFrame]) -> None:
    predictions = predicted(films(10, 9000))

    assert list(figures.draw(tmp_path, report_of(predictions, references), predictions, references, metrics_csv=tmp_path / "none.csv")) == ["auroc"]


def test_the_style_and_backend_of_the_caller_stay_as_they_were(tmp_path: Path, predictions: Predictions, references: dict[str, pd.DataFrame]) -> None:
    before = dict(matplotlib.rcParams)
    figures.draw(tmp_path, report_of(predictions, {"nih_val": references["nih_val"]}), predictions, references, metrics_csv=tmp_path / "none.csv")

    assert dict(matplotlib.rcParams) == before
