"""Mirrors report/ensemble.py."""

import math

import made_up
import numpy as np
import pandas as pd
import pytest

from cxr.report.ensemble import average
from cxr.report.predictions import Predictions, PredictionsError


@pytest.fixture
def members() -> dict[str, Predictions]:
    films = made_up.films(20)
    return {name: made_up.predictions(films, seed=seed, findings=("Mass", "Effusion")) for name, seed in (("one", 1), ("two", 2), ("three", 3))}


def shuffled(predictions: Predictions) -> Predictions:
    return Predictions(predictions.table.sample(frac=1, random_state=0, ignore_index=True), predictions.findings, predictions.metadata)


def test_it_is_the_mean_probability_of_each_film_whatever_the_order_of_rows(members: dict[str, Predictions]) -> None:
    joined = average(members | {"two": shuffled(members["two"])})
    assert joined.table.image_id.tolist() == members["one"].table.image_id.tolist()
    for i, row in joined.table.iterrows():
        for finding in ("Mass", "Effusion"):
            logits = [one.table.set_index("image_id").loc[row.image_id, f"logit_{finding}"] for one in members.values()]
            mean = sum(1 / (1 + math.exp(-logit)) for logit in logits) / 3
            assert row[f"logit_{finding}"] == pytest.approx(math.log(mean / (1 - mean)), rel=1e-5), i
    assert joined.table["logit_Mass"].dtype == np.float32


def test_a_model_that_is_certain_leaves_the_mean_finite(members: dict[str, Predictions]) -> None:
    for name in members:
        members[name].table["logit_Mass"] = np.float32(1e4)
    assert np.isfinite(average(members).table["logit_Mass"]).all()


def test_members_of_other_films_splits_or_findings_are_refused(members: dict[str, Predictions]) -> None:
    one, two = members["one"], members["two"]
    fewer = Predictions(two.table.iloc[1:], two.findings, {})
    elsewhere = Predictions(two.table.assign(split="test"), two.findings, {})
    other = Predictions(pd.DataFrame(two.table), ["Mass"], {})
    for wrong, told in ((fewer, "different films"), (elsewhere, "in other splits"), (other, "different findings")):
        with pytest.raises(PredictionsError, match=told):
            average({"one": one, "two": wrong})
