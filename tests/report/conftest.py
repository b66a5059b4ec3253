"""What the tests of the pages and the pictures share: a made-up study, really evaluated."""

import copy
from typing import Any, NamedTuple

import made_up
import pandas as pd
import pytest

from cxr.report import render
from cxr.report.evaluate import evaluate, prevalences
from cxr.report.reference import ReferenceSet
from cxr.report.shortcuts import probes


class Told(NamedTuple):
    report: dict[str, Any]
    scores: dict[str, pd.DataFrame]
    references: dict[str, ReferenceSet]


@pytest.fixture(scope="session")
def evaluated() -> Told:
    """All five sets. Nobody of nih_test has Hernia, and five films of all_findings_test."""
    predictions, references = made_up.study()
    references["nih_test"].films["Hernia"] = 0.0
    references["all_findings_test"].films["Hernia"] = [1.0] * 5 + [0.0] * (len(references["all_findings_test"].films) - 5)
    frozen, train_val = made_up.frozen(predictions, references), made_up.train_val()
    report = {
        "protocol": {
            "data": "cxr14",
            "model": "densenet121",
            "image_size": 224,
            "splits": "official",
            "seed": 3,
            "commit": None,
            "labels": {"release": "v2020", "sha256": "ab" * 32},
            "selection": {"findings": ["Effusion", "Mass"], "left_out": {}},
            "evaluation": {"sha256": frozen.sha256, **frozen.content},
            "provenance": {"reported": "2026-11-22T22:21:38+00:00", "host": "node17", "looks": {"n": 3, "n_protocols": 1}},
        },
        "reference_sets": evaluate(predictions, references, frozen, train_val=train_val),
        "prevalences": prevalences(predictions, references, train_val),
        "shortcuts": probes(predictions, None, [references["nih_val"]], references["nih_test"], draws=100, seed=0),
        "attribution": render.attribution("cxr14", True),
    }
    return Told(report, {name: frozen.mapping.scores(predictions, reference) for name, reference in references.items()}, references)


@pytest.fixture
def report(evaluated: Told) -> dict[str, Any]:
    """The content of report.json, to be changed at will."""
    return copy.deepcopy(evaluated.report)
