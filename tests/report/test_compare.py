"""Mirrors report/compare.py: runs beside each other, against sklearn, loops over patients, and truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.report import compare_page
from cxr.report.compare import CompareError, Run, compare, require_one_protocol
from cxr.report.predictions import Predictions
from cxr.report.reference import ReferenceSet
from cxr.stats.simulation import World, draw_films, draw_scores

PROTOCOL: dict[str, Any] = {
    "seed": 0,
    "model": "a",
    "splits": "official",
    "labels": {"release": "v2020", "sha256": "ab"},
    "evaluation": {"mapping": {"method": "max"}},
}


@pytest.fixture(scope="module")
def references() -> dict[str, ReferenceSet]:
    return made_up.study()[1]


def run(name: str, references: dict[str, ReferenceSet], seed: int, **protocol: Any) -> Run:
    tables = [references[key].films.assign(**references[key].text_mined) for key in ("nih_val", "nih_test", "four_findings_validation")]
    predictions = made_up.predictions(*tables, seed=seed)
    return Run(name, predictions, made_up.mapping(predictions), PROTOCOL | {"seed": seed} | protocol)


def joined(made: Run, reference: ReferenceSet, finding: str) -> pd.DataFrame:
    logits = made.predictions.table.set_index("image_id")[f"logit_{finding}"]
    return reference.films[["image_id", "patient_id", finding]].assign(score=logits.reindex(reference.films.image_id).to_numpy(float))


def test_a_run_beside_its_copy_differs_by_nothing_with_p_1(references: dict[str, ReferenceSet]) -> None:
    one = run("one", references, 1)
    told = compare({"one": [one], "copy": [replace(one, name="copy")]}, references, draws=50, seed=0)
    assert set(told) == set(references)
    for part in told.values():
        compared = [row for row in part["findings"].values() if row["differences"]]
        assert compared
        for row in compared:
            found = row["differences"]["copy"]
            assert (found["value"], found["lo"], found["hi"], found["p"], found["p_bootstrap"], found["p_holm"]) == (0, 0, 0, 1, 1, 1)
        assert part["macro"]["differences"]["copy"]["value"] == 0


def test_areas_and_differences_are_sklearns_and_intervals_those_of_a_loop_over_patients(references: dict[str, ReferenceSet]) -> None:
    runs, reference = [run("one", references, 1), run("two", references, 2)], references["nih_test"]
    told = compare({made.name: [made] for made in runs}, {"nih_test": reference}, draws=400, seed=0)["nih_test"]
    tables = [joined(made, reference, "Effusion") for made in runs]
    areas = [roc_auc_score(table["Effusion"], table.score) for table in tables]
    row = told["findings"]["Effusion"]
    assert [row["auroc"][name]["value"] for name in ("one", "two")] == pytest.approx(areas, abs=1e-12)
    found = row["differences"]["two"]
    assert found["value"] == pytest.approx(areas[1] - areas[0], abs=1e-12)

    rng, films_of = np.random.default_rng(7), tables[0].groupby("patient_id").indices
    patients, differences = list(films_of), []
    for _ in range(400):
        rows = np.concatenate([films_of[patient] for patient in rng.choice(patients, len(patients))])
        differences.append(np.subtract(*[roc_auc_score(table["Effusion"].iloc[rows], table.score.iloc[rows]) for table in tables[::-1]]))
    assert (found["hi"] - found["lo"]) / 2 == pytest.approx(1.96 * np.std(differences, ddof=1), rel=0.12)

    macro = told["macro"]
    means = [np.mean([roc_auc_score(reference.films[f], joined(made, reference, f).score) for f in macro["findings"]]) for made in runs]
    assert macro["differences"]["two"]["value"] == pytest.approx(means[1] - means[0], abs=1e-12)


def test_p_values_are_adjusted_over_the_findings_of_a_set(references: dict[str, ReferenceSet]) -> None:
    told = compare({"one": [run("one", references, 1)], "two": [run("two", references, 2)]}, references, draws=50, seed=0)["all_findings_test"]
    asked = sorted((row["differences"]["two"] for row in told["findings"].values() if row["differences"]), key=lambda found: found["p"])
    least = 0.0
    for rank, found in enumerate(asked):
        least = max(least, min(1.0, found["p"] * (len(asked) - rank)))
        assert found["p_holm"] == pytest.approx(least, abs=1e-12)


def test_seeds_of_one_recipe_are_their_mean_and_their_scatter_is_told(references: dict[str, ReferenceSet]) -> None:
    seeds = [run(f"seed {i}", references, i) for i in (1, 2, 3)]
    reference = references["nih_test"]
    told = compare({"baseline": [run("other", references, 9)], "recipe": seeds}, {"nih_test": reference}, draws=50, seed=0)["nih_test"]
    areas = [roc_auc_score(reference.films["Mass"], joined(made, reference, "Mass").score) for made in seeds]
    area = told["findings"]["Mass"]["auroc"]["recipe"]
    assert (area["value"], area["sd_seeds"], area["n_seeds"]) == pytest.approx((np.mean(areas), np.std(areas, ddof=1), 3), abs=1e-12)
    found = told["findings"]["Mass"]["differences"]["recipe"]
    assert found["value"] == pytest.approx(np.mean(areas) - told["findings"]["Mass"]["auroc"]["baseline"]["value"], abs=1e-12)
    assert found["p_by"] == "patient bootstrap"
    macros = [np.mean([roc_auc_score(reference.films[f], joined(made, reference, f).score) for f in told["macro"]["findings"]]) for made in seeds]
    assert told["macro"]["auroc"]["recipe"]["sd_seeds"] == pytest.approx(np.std(macros, ddof=1), abs=1e-12)


def test_the_paired_interval_covers_a_known_difference() -> None:
    """Two raters with true areas of 0.85 and 0.80, who share much of what they see; 300 cohorts. (1,000: docs/statistics.md.)"""
    covered = n_cohorts = 0
    for cohort in range(300):
        rng = np.random.default_rng([11, cohort])
        patients, positive = draw_films(World(0.8, 40), rng)
        scores = draw_scores(patients, positive, [0.85, 0.80], rng)
        images = [f"{i:08d}_000.png" for i in range(len(patients))]
        films = pd.DataFrame(
            {"image_id": images, "patient_id": patients, "view": "PA", "sex": "F", "age": 50.0, "follow_up": 0, "Effusion": positive.astype(float)}
        )
        reference = ReferenceSet("nih_test", "test", False, ("Effusion",), films, films[["Effusion"]], len(films))
        runs = []
        for name, score in zip("ab", scores, strict=True):
            table = films[["image_id", "patient_id"]].assign(split="test", logit_Effusion=score)
            predictions = Predictions(table, ["Effusion"], {})
            runs.append(Run(name, predictions, made_up.mapping(predictions), {}))
        found = compare({made.name: [made] for made in runs}, {"nih_test": reference}, draws=300, seed=0)["nih_test"]["findings"]["Effusion"]["differences"][
            "b"
        ]
        covered += found["lo"] <= -0.05 <= found["hi"]
        n_cohorts += 1
    assert 0.92 <= covered / n_cohorts <= 0.98


# --- what cannot be compared ------------------------------------------------------------------------------------------------------------------------


def test_different_protocols_are_refused_by_field_unless_the_user_knows() -> None:
    other = PROTOCOL | {"model": "b", "labels": {"release": "2017", "sha256": "cd"}, "evaluation": {"mapping": {"method": "probe"}}}
    with pytest.raises(CompareError, match=r"one and other .*labels\.release: v2020 / 2017; labels\.sha256: ab / cd; evaluation\.mapping\.method: max / probe"):
        require_one_protocol({"one": PROTOCOL, "other": other}, [])
    with pytest.raises(CompareError, match=r"may_differ=\[evaluation\.mapping\.method\]"):
        require_one_protocol({"one": PROTOCOL, "other": other}, ["labels"])
    require_one_protocol({"one": PROTOCOL, "other": other}, ["labels", "evaluation.mapping.method"])
    recipe = PROTOCOL | {"seed": 3, "commit": "x", "image_size": 512, "members": ["a", "b"]}
    require_one_protocol({"one": PROTOCOL, "recipe": recipe}, [])  # which is what is compared


def test_different_films_are_refused_and_compared_on_those_in_common_if_asked(references: dict[str, ReferenceSet]) -> None:
    one, two = run("one", references, 1), run("two", references, 2)
    fewer = replace(
        two, predictions=replace(two.predictions, table=two.predictions.table[~two.predictions.table.image_id.isin(references["nih_test"].films.image_id[:30])])
    )
    candidates = {"one": [one], "two": [fewer]}
    with pytest.raises(CompareError, match=r"nih_test: one predicted 400 films and two 370, 370 of them the same"):
        compare(candidates, {"nih_test": references["nih_test"]}, draws=50, seed=0)
    told = compare(candidates, {"nih_test": references["nih_test"]}, draws=50, seed=0, intersection=True)["nih_test"]
    assert (told["n_images"], told["n_left_out"]) == (370, 30)
    films = joined(one, references["nih_test"], "Edema").iloc[30:]
    assert told["findings"]["Edema"]["auroc"]["one"]["value"] == pytest.approx(roc_auc_score(films["Edema"], films.score), abs=1e-12)


# --- the page ---------------------------------------------------------------------------------------------------------------------------------------


HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def comparison(references: dict[str, ReferenceSet]) -> dict[str, Any]:
    """The content of compare.json: one run, and two seeds of another recipe."""
    candidates = {"one": [run("one", references, 1)], HOSTILE: [run("two", references, 2), run("three", references, 3)]}
    return {
        "candidates": {
            name: {"runs": [made.name for made in several], "seeds": [made.protocol["seed"] for made in several]} for name, several in candidates.items()
        },
        "reference_sets": compare(candidates, references, draws=50, seed=0),
        "protocol": {"data": "cxr14", "commit": None, "provenance": {"reported": "2026-11-25"}},
        "attribution": ["somebody"],
    }


def test_the_page_tells_every_difference_and_escapes_what_it_is_told(tmp_path: Path, comparison: dict[str, Any]) -> None:
    compare_page.write(tmp_path, comparison)
    html, markdown = (tmp_path / "compare.html").read_text(), (tmp_path / "compare.md").read_text()
    assert "<script" not in html + markdown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "compare.json", "compare.md", "figures"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["aurocs.png", "differences.png"]
    for part in comparison["reference_sets"].values():
        for row in part["findings"].values():
            for found in (row["differences"] or {}).values():
                assert f"{found['value']:+.3f}".replace("-", "−") in html
    assert "SD over 2 seeds" in markdown
    assert "difference" in compare_page.summary(comparison)


def marks(panel: Any, marker: str, row: int) -> list[float]:
    return sorted(line.get_xdata()[0] for line in panel.lines if line.get_marker() == marker and line.get_ydata()[0] == row)


def test_every_candidates_auroc_and_that_of_each_seed_is_drawn(comparison: dict[str, Any]) -> None:
    figure = compare_page.aurocs(comparison)
    panel = next(panel for panel in figure.axes if panel.get_title("left") == "NIH test")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    part = comparison["reference_sets"]["nih_test"]
    for name, area, marker in (
        ("Effusion", part["findings"]["Effusion"]["auroc"], "o"),
        ("Pleural Thickening", part["findings"]["Pleural_Thickening"]["auroc"], "o"),
        ("Mean over findings", part["macro"]["auroc"], "D"),
    ):
        assert marks(panel, marker, rows.index(name)) == sorted(told["value"] for told in area.values())
        assert marks(panel, "|", rows.index(name)) == sorted(area[HOSTILE]["by_seed"])


def test_learning_curves_lie_over_each_other_with_the_chosen_epoch_ringed() -> None:
    def log(*areas: float) -> pd.DataFrame:
        rows = [{"epoch": i, "step": 9 + 10 * i, "val/auroc_macro": area, "val/loss": 1 - area} for i, area in enumerate(areas)]
        return pd.DataFrame([{"epoch": 0, "step": 4, "train/loss": 0.7}, *rows])

    figure = compare_page.learning_curves({"a": [log(0.5, 0.7, 0.6), log(0.6, 0.61, 0.62)], "b": [log(0.4, 0.4, 0.3)], "ensemble": [pd.DataFrame()]})
    for panel, of in zip(figure.axes, (lambda area: 1 - area, lambda area: area), strict=True):
        curves = [line for line in panel.lines if len(line.get_xdata()) == 3]
        rings = [line.get_xydata()[0].tolist() for line in panel.lines if len(line.get_xdata()) == 1]
        np.testing.assert_allclose([line.get_ydata() for line in curves], [[of(x) for x in y] for y in ((0.5, 0.7, 0.6), (0.6, 0.61, 0.62), (0.4, 0.4, 0.3))])
        np.testing.assert_allclose(rings, [[2, of(0.7)], [3, of(0.62)], [1, of(0.4)]])  # the first of equals, as the checkpoint callback takes it
        assert len({line.get_color() for line in curves[:2]}) == 1 != len({line.get_color() for line in curves})


def test_seeds_of_one_recipe_alone_have_areas_and_no_difference_to_draw(tmp_path: Path, references: dict[str, ReferenceSet]) -> None:
    candidates = {"one": [run("two", references, 2), run("three", references, 3)]}
    alone = {"candidates": {"one": {"runs": ["two", "three"], "seeds": [2, 3]}}}
    alone |= {"reference_sets": compare(candidates, {"nih_test": references["nih_test"]}, draws=20, seed=0)}
    assert [panel.get_title("left") for panel in compare_page.aurocs(alone).axes] == ["NIH test"]
    assert compare_page.differences(alone) is None
    compare_page.write(tmp_path, alone | {"protocol": {}, "attribution": []})
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["aurocs.png"]
