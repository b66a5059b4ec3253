"""Mirrors cohort/pretraining.py: weights are known by the names they are passed on under."""

import pytest

from cxr.cohort.pretraining import REGISTRY, saw_test_films


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ("/w/nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt", "torchxrayvision DenseNet-121, all data sets"),
        ("/w/nih-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt", "torchxrayvision DenseNet-121, NIH"),
        ("/w/kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt", "torchxrayvision DenseNet-121, RSNA"),
        ("/w/pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", "torchxrayvision ResNet-50, all data sets"),
        ("/cache/models--microsoft--rad-dino/model.safetensors", "RAD-DINO"),
        ("m-25012018-123527.pth.tar", "CheXNet by zoogzog"),
    ],
)
def test_weights_that_saw_nih_test_films_are_told_by_their_published_names(weights: str, what: str) -> None:
    seen = saw_test_films(weights, "densenet121")
    assert seen is not None
    assert seen["what"] == what
    assert seen["source"]


@pytest.mark.parametrize(
    "weights",
    [
        "none",
        "/w/chex-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
        "/w/mimic_nb-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
        "/w/pc-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
        "/w/tf_efficientnet_lite0.safetensors",
        "/home/me/grad-dinosaur/model.pt",
    ],
)
def test_others_are_not_accused(weights: str) -> None:
    assert saw_test_films(weights, "densenet121") is None


def test_a_hub_id_and_a_known_hash_tell_as_much_as_a_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (saw_test_films("pretrained", "hf-hub:microsoft/rad-dino") or {})["what"] == "RAD-DINO"
    assert saw_test_films("none", "hf-hub:microsoft/rad-dino") is None
    known = REGISTRY[0].__class__(("no-such-name",), "renamed weights", "films", "a source", sha256=("ab" * 32,))
    monkeypatch.setattr("cxr.cohort.pretraining.REGISTRY", (known,))
    assert (saw_test_films("/w/renamed.pt", "densenet121", "ab" * 32) or {})["what"] == "renamed weights"
    assert saw_test_films("/w/renamed.pt", "densenet121", "cd" * 32) is None
