"""Mirrors run/trained.py and read_config of run/reporting.py: damaged folders of models and runs (sound ones: test_predicting.py)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr.run import RunError
from cxr.run.checking import write_reference_model
from cxr.run.predicting import Predictor
from cxr.run.reporting import read_config
from cxr.run.trained import FACTS

Facts = dict[str, Any]


def exported(folder: Path, change: Callable[[Facts], object]) -> Path:
    """The model of a formula, with a threshold and a recalibration, and with other facts."""
    folder.mkdir()
    write_reference_model(folder)
    facts = json.loads((folder / FACTS).read_bytes())
    facts["operating"]["points"] = {"Mass": {"threshold": 0.5, "source": "nih_val"}, "Edema": {"reason": "too few"}}
    facts["calibration"] = {"Mass": {"slope": 1.0, "intercept": -1.0, "source": "nih_val"}}
    change(facts)
    (folder / FACTS).write_text(json.dumps(facts))
    return folder


def test_sound_facts_make_a_model(tmp_path: Path) -> None:
    predictor = Predictor(exported(tmp_path / "model", lambda facts: None), accelerator="cpu")
    assert list(predictor.operating) == list(predictor.calibration) == ["Mass"]


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["findings"].reverse(),
        lambda facts: facts["findings"].pop(),
        lambda facts: facts.update(image_size="56"),
        lambda facts: facts.update(store_size=10**6),
        lambda facts: facts.update(store_size=55),
        lambda facts: facts["reading"].update(fit="pat"),
        lambda facts: facts["reading"].update(window="voi"),
        lambda facts: facts.update(precision=[]),
        lambda facts: facts["operating"]["points"]["Mass"].update(threshold="0.5"),
        lambda facts: facts["operating"]["points"]["Mass"].update(threshold=float("nan")),
        lambda facts: facts["operating"]["points"]["Mass"].pop("threshold"),
        lambda facts: facts["operating"]["points"].update(Mess={"threshold": 0.5}),
        lambda facts: facts["calibration"]["Mass"].pop("intercept"),
        lambda facts: facts["calibration"]["Mass"].update(slope=None),
        lambda facts: facts.update(network=[]),
        lambda facts: facts["network"]["model"].update(drop_rate="high"),
        lambda facts: facts.update(extra=float("inf")),
    ],
)
def test_facts_that_cannot_be_are_refused_before_a_film_is_predicted(tmp_path: Path, change: Callable[[Facts], object]) -> None:
    """Found by scripts/fuzz.py: a fit that was none counted as the other one, and a finding that had no column failed at the first film."""
    with pytest.raises(RunError, match=r"config\.json or model\.safetensors is damaged"):
        Predictor(exported(tmp_path / "model", change), accelerator="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network["monitored"].append("Mess"),
        lambda network: network["model"].pop("channels_last"),
        lambda network: network["model"].update(name="test_resnat"),
        lambda network: network.update(more=1),
    ],
)
def test_a_network_that_cannot_be_made_is_one_message(tmp_path: Path, change: Callable[[Facts], object]) -> None:
    """Found by scripts/fuzz.py: what Python says of a word that is not in a list."""
    with pytest.raises(RunError, match="no network can be made of what is told of it"):
        Predictor(exported(tmp_path / "model", lambda facts: change(facts["network"])), accelerator="cpu")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "7",
        "a: [",
        "a: b: c",
        "\0",
        "data: 7",
        "data: {name: mini, root: mini, image_size: wide}",
        "data: {name: mini, root: '${nowhere}'}",
        "[" * 3000,
    ],
)
def test_a_damaged_configuration_of_a_run_is_one_message(tmp_path: Path, content: str) -> None:
    """Found by scripts/fuzz.py: what the YAML parser says."""
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=r"config\.yaml is damaged, or of another version \(.+\)"):
        read_config(tmp_path, root=None, expert_labels=None)
    (tmp_path / "config.yaml").write_bytes(content.encode() + b"\xff")
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        read_config(tmp_path, root=None, expert_labels=None)


def test_a_configuration_of_an_external_run_is_still_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"external": {"run": "outputs/x"}}))
    with pytest.raises(RunError, match=r"a run on another data set; make it again with scripts/external\.py run=outputs/x"):
        read_config(tmp_path, root=None, expert_labels=None)
