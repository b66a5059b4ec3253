"""Mirrors report/protocol.py: nothing that is frozen may know of a test prediction, and every look leaves a line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pandas as pd

from cxr.report.predictions import Predictions
from cxr.report.protocol import record_look


def test_test_predictions_change_nothing_and_validation_predictions_do() -> None:
    predicted, references = made_up.study()
    frozen = made_up.frozen(predicted, references)
    for split, same in (("test", True), ("val", False), ("expert_validation", False)):
        table = predicted.table.copy()
        table.loc[table.split == split, table.columns.str.startswith("logit_")] *= -1
        changed = made_up.frozen(Predictions(table, predicted.findings, {}), references)
        assert (changed.sha256 == frozen.sha256) is same


def test_every_setting_and_the_mapping_are_part_of_the_hash() -> None:
    predicted, references = made_up.study()
    changes: list[dict[str, Any]] = [{"draws": 101}, {"seed": 1}, {"rule": "youden"}, {"prevalences": [0.5]}, {"macro_available": True}]
    changes += [{"method": method} for method in ("max", "max_raw", "noisy_or", "probe")]
    assert len({made_up.frozen(predicted, references, **change).sha256 for change in changes}) == len(changes)


def test_a_threshold_aims_at_validation_films_of_the_right_labels() -> None:
    predicted, references = made_up.study()
    frozen = made_up.frozen(predicted, references)
    for name, source in (("all_findings_test", "nih_val"), ("four_findings_test", "four_findings_validation")):
        chosen = frozen.content["operating_points"][name]["Airspace opacity" if name.startswith("four") else "Effusion"]
        assert chosen["source"] == source
        finding = "Airspace opacity" if name.startswith("four") else "Effusion"
        reference = references[source]
        labels = (reference.films if source != "nih_val" else reference.text_mined)[finding].to_numpy()
        as_set = references["four_findings_validation"] if source != "nih_val" else reference
        scores = frozen.mapping.scores(predicted, as_set)[finding].to_numpy()
        threshold = chosen["rules"]["specificity"]["threshold"]
        assert (scores[labels == 0] < threshold).mean() >= 0.9
        lower = scores[scores < threshold].max()
        assert (scores[labels == 0] < lower).mean() < 0.9


def test_expert_films_of_few_or_of_one_patient_give_no_threshold() -> None:
    predicted, references = made_up.study()
    expert = references["four_findings_validation"]
    for spoil, told in (
        (lambda films: films["patient_id"].where(films["Airspace opacity"] == 0, films["patient_id"] % 12), "12 positive patients, fewer than 30"),
        (lambda films: films["patient_id"].where((films["Airspace opacity"] == 0) | (np.arange(len(films)) % 3 > 0), 5999), "one patient owns"),
    ):
        films = expert.films.assign(patient_id=spoil(expert.films))
        frozen = made_up.frozen(predicted, references | {expert.name: replace(expert, films=films)})
        chosen = frozen.content["operating_points"]["four_findings_test"]["Airspace opacity"]
        assert chosen["source"] == "nih_val"
        assert told in chosen["not_from"]["four_findings_validation"]
    fracture = frozen.content["operating_points"]["four_findings_test"]["Fracture"]
    assert fracture["source"] is None
    assert "not predicted by this model" in fracture["reason"]


def test_lists_are_fixed_by_complete_labels_and_not_by_what_was_predicted() -> None:
    predicted, references = made_up.study()
    few = Predictions(predicted.table[(predicted.table.split != "test") | (predicted.table.patient_id < 20)], predicted.findings, {})
    whole, part = made_up.frozen(predicted, references).content, made_up.frozen(few, references).content
    assert whole["macro"] == part["macro"]
    assert whole["primary_family"] == part["primary_family"]
    truth = references["all_findings_test"].films
    for finding in ("Effusion", "Hernia"):
        enough = truth.patient_id[truth[finding] == 1].nunique() >= 20
        assert (finding in whole["primary_family"]["findings"]) is enough
    assert whole["primary_family"]["readers"] == ["4", "5"]


def test_every_look_leaves_a_line_and_protocols_are_told_apart(tmp_path: Path) -> None:
    predicted, references = made_up.study()
    one, other = made_up.frozen(predicted, references), made_up.frozen(predicted, references, seed=9)
    path = tmp_path / "looks.jsonl"
    assert record_look(path, one, checkpoint_sha256="c") == {"n": 1, "n_protocols": 1}
    assert record_look(path, one, checkpoint_sha256="c") == {"n": 2, "n_protocols": 1}
    assert record_look(path, other, checkpoint_sha256="c") == {"n": 3, "n_protocols": 2}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["evaluation_sha256"] for line in lines] == [one.sha256, one.sha256, other.sha256]
    assert pd.to_datetime([line["time"] for line in lines]).is_monotonic_increasing
