"""Mirrors report/figures.py and report/expert_figures.py: what is drawn is what was computed, and never crashes for want of numbers."""

from pathlib import Path
from typing import Any

import made_up
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from cxr.report import expert_figures, figures, shortcut_figures
from cxr.report.evaluate import evaluate

NIH = ("nih_val", "nih_test")


def panel_of(figure: Figure, finding: str) -> Axes:
    return next(panel for panel in figure.axes if panel.get_title("left") == finding.replace("_", " "))


def drawn(panel: Axes) -> dict[str, np.ndarray]:
    """What carries a name, as its points."""
    return {str(line.get_gid()): line.get_xydata() for line in panel.lines if line.get_gid()}


def words(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.texts]


def place(leaf: dict[str, Any]) -> list[list[float]]:
    return [[1 - leaf["specificity"]["value"], leaf["sensitivity"]["value"]]]


def one_set(evaluated: Any, name: str) -> tuple[str, dict[str, Any], pd.DataFrame, Any]:
    return name, evaluated.report["reference_sets"][name], evaluated.scores[name], evaluated.references[name]


@pytest.fixture
def metrics_csv(tmp_path: Path) -> Path:
    rows = [{"epoch": 0, "step": 4, "train/loss": 0.7}, {"epoch": 0, "step": 9, "val/loss": 0.6, "val/auroc_macro": 0.71}]
    rows += [{"epoch": 1, "step": 14, "train/loss": 0.5}, {"epoch": 1, "step": 19, "val/loss": 0.5, "val/auroc_macro": 0.69}]
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path / "metrics.csv"


def test_every_figure_is_a_picture_in_reading_order(tmp_path: Path, evaluated: Any, metrics_csv: Path) -> None:
    pictures = figures.draw(tmp_path, *evaluated, metrics_csv=metrics_csv)

    kinds = dict.fromkeys(evaluated.references, ("readers", "precision_recall", "calibration", "groups"))
    kinds |= {"nih_val": ("roc", "precision_recall"), "nih_test": ("roc", "precision_recall", "calibration", "groups")}
    kinds |= {"all_findings_test": ("readers", "precision_recall", "differences", "calibration", "groups")}
    assert list(pictures) == ["auroc", *(f"{name}_{kind}" for name, of in kinds.items() for kind in of), "shortcuts", "training"]
    for path in pictures.values():
        pixels = imread(path)
        assert pixels.shape[1] == 1650
        assert len(np.unique(pixels[::7, ::7, :3] @ [1.0, 256.0, 65536.0])) > 10


def test_rows_meet_by_image_id_so_that_shuffled_scores_draw_the_same_bytes(tmp_path: Path, evaluated: Any) -> None:
    report = {"reference_sets": {"four_findings_test": evaluated.report["reference_sets"]["four_findings_test"]}}
    shuffled = {name: scores.sample(frac=1.0, random_state=1) for name, scores in evaluated.scores.items()}
    bytes_of = []
    for name, scores in (("straight", evaluated.scores), ("shuffled", shuffled)):
        (tmp_path / name).mkdir()
        pictures = figures.draw(tmp_path / name, report, scores, evaluated.references, metrics_csv=tmp_path / "none.csv")
        bytes_of.append({title: path.read_bytes() for title, path in pictures.items()})

    assert bytes_of[0] == bytes_of[1]


def test_the_areas_under_the_drawn_lines_are_the_reported_numbers(evaluated: Any) -> None:
    for name in ("nih_test", "all_findings_test"):
        told = one_set(evaluated, name)
        roc = expert_figures.readers(*told) if told[1]["adjudicated"] else figures.curves("roc", *told)
        precision_recall = figures.curves("precision_recall", *told)
        for finding, row in told[1]["findings"].items():
            if row["auroc"]:
                x, y = drawn(panel_of(roc, finding))["curve"].T
                assert np.trapezoid(y, x) == pytest.approx(row["auroc"]["value"], abs=1e-12)
                recall, precision = drawn(panel_of(precision_recall, finding))["curve"].T
                assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(row["auprc"]["value"], abs=1e-12)


def test_a_finding_without_a_number_is_called_undefined_and_its_reason_is_given(evaluated: Any) -> None:
    sets = evaluated.report["reference_sets"]
    n_undefined = sum(row["auroc"] is None for part in sets.values() for row in (*part["findings"].values(), part["macro"]))
    hernia = panel_of(figures.curves("roc", *one_set(evaluated, "nih_test")), "Hernia")

    assert [text for panel in figures.forest(sets).axes for text in words(panel)].count("undefined") == n_undefined
    assert words(hernia) == ["undefined", "no positive image"]
    assert not hernia.lines


# --- readers ----------------------------------------------------------------------------------------------------------------------------------------


def test_every_mark_among_the_readers_lies_where_the_report_has_it(evaluated: Any) -> None:
    for name in ("four_findings_test", "all_findings_test"):
        _, part, _, _ = told = one_set(evaluated, name)
        readers = part["readers"]
        figure = expert_figures.readers(*told)
        for finding, row in part["findings"].items():
            expected = {"pooled": place(readers["performance"]["no"]["pooled"][finding])}
            if finding in part["text_mined_labels"]:
                expected["text_mined"] = place(part["text_mined_labels"][finding])
            points = row.get("operating_points", {"source": None})
            if points["source"]:
                expected["operating_point"] = place(points["rules"][points["shown"]])
            for reader in readers["shown"]:
                leaves = {policy: of["by_reader"][reader][finding] for policy, of in readers["performance"].items()}
                kind = "held_out" if reader in readers["held_out"] else "reader"
                expected[f"{kind}:{reader}"] = place(leaves["no"])
                if len(leaves) > 1:
                    expected[f"yes:{reader}"] = place(leaves["no"]) + place(leaves["yes"])
                    expected[f"drop:{reader}"] = place(leaves["drop"])
            found = drawn(panel_of(figure, finding))
            found.pop("curve", None)
            assert sorted(found) == sorted(expected)
            for mark, points in expected.items():
                np.testing.assert_allclose(found[mark], points, rtol=0, atol=1e-12)


def test_held_out_readers_look_different_from_those_behind_the_reference_and_from_each_other(evaluated: Any) -> None:
    panel = panel_of(expert_figures.readers(*one_set(evaluated, "all_findings_test")), "Effusion")
    looks = {line.get_gid(): (line.get_marker(), line.get_color()) for line in panel.lines if ":" in str(line.get_gid())}

    assert {looks[f"reader:{reader}"][0] for reader in "123"} == {"o"}
    assert {looks[f"held_out:{reader}"][0] for reader in "45"} == {"D"}
    assert len(set(looks.values())) == 3


def test_the_band_is_that_of_the_report_and_missing_where_few_patients_would_draw_it(evaluated: Any) -> None:
    _, part, _, _ = told = one_set(evaluated, "all_findings_test")
    figure = expert_figures.readers(*told)
    bands = {finding: [patch for patch in panel_of(figure, finding).collections if patch.get_gid() == "band"] for finding in ("Effusion", "Hernia")}

    corners = {tuple(corner) for corner in bands["Effusion"][0].get_paths()[0].vertices.round(9)}
    band = part["findings"]["Effusion"]["roc_band"]
    for end in ("lo", "hi"):
        assert {*zip(np.round(band["false_positive_rate"], 9), np.round(band[end], 9), strict=True)} <= corners
    assert part["findings"]["Hernia"]["n_pos_patients"] < 10
    assert bands["Hernia"] == []


def test_a_finding_the_model_does_not_speak_of_still_shows_its_readers(evaluated: Any) -> None:
    fracture = panel_of(expert_figures.readers(*one_set(evaluated, "four_findings_test")), "Fracture")

    assert "no curve: not predicted by this model" in words(fracture)[0]
    assert "curve" not in drawn(fracture)
    assert {"reader:a", "reader:b", "reader:c", "reader:d", "pooled"} <= set(drawn(fracture))


def test_the_differences_are_those_of_the_report_and_only_primary_ones_are_filled(evaluated: Any) -> None:
    _, part, _, _ = one_set(evaluated, "all_findings_test")
    panel = expert_figures.differences("all_findings_test", part).axes[0]
    rows = [row for of in part["readers"]["differences"]["by_reader"].values() for row in of.values()]

    marks = {(float(line.get_xdata()[0]), line.get_markerfacecolor() != "white") for line in panel.lines if line.get_marker() == "D"}
    assert marks == {(row["difference"]["value"], row["in_primary_family"]) for row in rows}
    bars = {tuple(line.get_xdata()) for line in panel.lines if line.get_marker() == "None"}
    assert {(row["difference"]["lo"], row["difference"]["hi"]) for row in rows} <= bars
    assert sorted(text for text in words(panel) if text.startswith(("0.", "1."))) == sorted(f"{row['p_holm']:.4f}" for row in rows if row["in_primary_family"])


# --- calibration, training, and what is missing -----------------------------------------------------------------------------------------------------


def test_the_points_of_the_reliability_diagrams_are_the_bins_of_the_report(evaluated: Any) -> None:
    _, part, _, _ = one_set(evaluated, "four_findings_test")
    figure = figures.calibration("four_findings_test", part)
    for finding, row in part["findings"].items():
        if row["auroc"]:
            lines = panel_of(figure, finding).lines
            for stage in ("before", "platt"):
                found = [tuple(point) for line in lines if line.get_gid() == stage for point in line.get_xydata()]
                told = row["calibration"][stage]
                assert found == [(b["mean_probability"], b["observed"]["value"]) for b in (told["bins"] if told else [])]
    assert "Fracture" not in [panel.get_title("left") for panel in figure.axes]
    assert words(panel_of(figure, "Airspace opacity"))[0].startswith("a score, no probability\nECE ")


def test_the_best_epoch_is_marked(metrics_csv: Path) -> None:
    areas = figures.training(pd.read_csv(metrics_csv)).axes[1]

    assert areas.get_title("left") == "val/auroc_macro, best: 0.710 after epoch 1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no header line"),
        (b"\xff", "not a text file"),
        (b"epoch,step,val/loss\n0,1\n", "row 2: 2 cells under a header of 3 columns"),
        (b"epoch,step\n0,many\n", "step is no number"),
        (b"epoch,train/loss\n0,1\n", "step"),
        (b"epoch,step,val/auroc_macro\n0,1,0.5\n", "val/loss"),
        (b"epoch,step,val/auroc_macro,val/loss\n0,,0.5,0.5\n", "an epoch or a step is no number"),
        (b"epoch,step\n1e999,1\n", "an epoch or a step is no number"),
    ],
)
def test_damaged_metrics_are_one_message_with_a_way_out(tmp_path: Path, content: bytes, said: str) -> None:
    """Found by scripts/fuzz.py: whatever pandas says, or a figure of cells that had moved."""
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(figures.MetricsError, match=rf"metrics\.csv is damaged \(.*{said}.*\); delete it, and there are no curves"):
        figures.read_metrics(path)


def test_metrics_are_read_as_pandas_reads_them(metrics_csv: Path) -> None:
    pd.testing.assert_frame_equal(figures.read_metrics(metrics_csv), pd.read_csv(metrics_csv))


def test_without_metrics_the_training_is_left_out(tmp_path: Path, evaluated: Any) -> None:
    pictures = figures.draw(tmp_path, {"reference_sets": {}}, evaluated.scores, evaluated.references, metrics_csv=tmp_path / "none.csv")

    assert pictures == {}
    assert not (tmp_path / "training.png").exists()


@pytest.mark.parametrize("present", [("nih_val",), ()], ids=["no test film", "no film at all"])
def test_a_set_with_no_present_image_has_no_pictures_of_its_own_and_stays_in_the_overview(tmp_path: Path, evaluated: Any, present: tuple[str, ...]) -> None:
    references = {name: evaluated.references[name] for name in (*NIH, "all_findings_test")}
    predictions = made_up.predictions(*(references[name].films if name in present else references[name].films.iloc[:0] for name in NIH))
    frozen = made_up.frozen(predictions, references)
    sets = evaluate(predictions, references, frozen, train_val=made_up.train_val())
    assert sets["nih_test"]["n_images"] == sets["all_findings_test"]["n_images"] == 0
    scores = {name: frozen.mapping.scores(predictions, reference) for name, reference in references.items()}

    pictures = figures.draw(tmp_path, {"reference_sets": sets}, scores, references, metrics_csv=tmp_path / "none.csv")

    assert list(pictures) == ["auroc", *(f"{name}_{kind}" for name in present for kind in ("roc", "precision_recall"))]
    assert [panel.get_title("left") for panel in figures.forest(sets).axes] == ["NIH val", "NIH test", "All findings,\ntest"]


def test_the_style_and_backend_of_the_caller_stay_as_they_were(tmp_path: Path, evaluated: Any) -> None:
    before = dict(matplotlib.rcParams)
    report = {"reference_sets": {"nih_val": evaluated.report["reference_sets"]["nih_val"]}}
    figures.draw(tmp_path, report, evaluated.scores, evaluated.references, metrics_csv=tmp_path / "none.csv")

    assert dict(matplotlib.rcParams) == before


# --- shortcuts --------------------------------------------------------------------------------------------------------------------------------------


def points(panel: Axes) -> set[float]:
    return {float(x) for line in panel.lines for x in np.atleast_1d(line.get_xdata())}


def test_every_group_and_every_difference_is_drawn_where_the_report_has_it(evaluated: Any) -> None:
    part = evaluated.report["reference_sets"]["four_findings_test"]
    figure = shortcut_figures.groups("four_findings_test", part)
    assert figure is not None
    above, below = figure.axes[:5], figure.axes[5:]
    rows = [row for row in part["findings"].values() if row["auroc"]]
    for kind, upper, lower in zip(("metadata", *shortcut_figures.TITLES), above, below, strict=True):
        if kind == "metadata":
            areas = [row["metadata_baseline"]["auroc"] for row in rows] + [row["auroc"] for row in rows]
            differences = [row["metadata_baseline"]["difference"] for row in rows]
        else:
            areas = [of["auroc"] for row in rows for of in row["subgroups"][kind].values()]
            differences = [of["auroc"] for row in rows for of in row["subgroup_differences"][kind]["groups"].values()]
        assert {of["value"] for of in areas if of} <= points(upper)
        assert {of[end] for of in differences if of for end in ("value", "lo", "hi")} <= points(lower)
    assert [tick.get_text() for tick in above[0].get_yticklabels()] == [name for name, row in part["findings"].items() if row["auroc"]]


def test_a_set_that_is_too_small_for_groups_has_no_such_picture(report: dict[str, Any]) -> None:
    part = report["reference_sets"]["four_findings_test"]
    for row in part["findings"].values():
        for of in row.get("subgroups", {}).values():
            for group in of.values():
                group["auroc"] = None
    assert shortcut_figures.groups("four_findings_test", part) is None


def test_a_probe_is_drawn_where_the_report_has_it(evaluated: Any) -> None:
    told = evaluated.report["shortcuts"]
    (panel,) = shortcut_figures.probes(told).axes
    drawn = [told[kind][name]["auroc"] for kind in ("view", "sex", "age") for name in ("labels", "logits", "features")]
    assert sum(of is not None for of in drawn) >= 6
    assert {of[end] for of in drawn if of for end in ("value", "lo", "hi")} <= points(panel)
