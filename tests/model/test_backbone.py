"""Mirrors model/backbone.py: one grey channel, and weights that are really loaded."""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cxr.model.backbone import create_backbone, grey_mean_std, locate_weights, set_prevalence
from cxr.model.weights import WeightsError

NO_DROP = {"drop_rate": 0.0, "drop_path_rate": 0.0}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_backbone_takes_one_channel_and_gives_a_logit_per_finding(name: str) -> None:
    net = create_backbone(name, n_findings=5, image_size=64, **NO_DROP)
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    set_prevalence(net, torch.tensor([0.1, 0.2, 0.3, 0.0, 1.0]))
    head = net.get_classifier()
    linear = head if isinstance(head, torch.nn.Linear) else head[-1]
    assert torch.sigmoid(linear.bias).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.001, 0.999], abs=1e-4)


def test_the_groups_of_the_configuration_name_models_that_exist() -> None:
    from cxr.config import CONFIGS

    names = [path.read_text().split("name: ")[1].split()[0] for path in (CONFIGS / "model").glob("*.yaml")]
    assert len(names) >= 6
    assert all(timm.is_model(name) for name in names)


def test_weights_from_a_file_compute_on_a_grey_film_what_they_computed_on_its_colour_copy(tmp_path: Path) -> None:
    colour = timm.create_model("test_resnet", num_classes=1000).eval()
    save_file(colour.state_dict(), tmp_path / "weights.safetensors")
    grey = create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "weights.safetensors"), **NO_DROP).eval()
    film = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(grey.forward_features(film), colour.forward_features(film.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_the_real_weights_are_loaded_layer_by_layer(real: Path) -> None:
    path = real / "weights" / "tf_efficientnet_lite0_timm.safetensors"
    net = create_backbone("tf_efficientnet_lite0", n_findings=14, image_size=224, weights=str(path), **NO_DROP)
    saved = load_file(path)
    loaded = net.state_dict()
    compared = [key for key in saved if not key.startswith(("classifier", "conv_stem"))]
    assert len(compared) > 200
    assert all(torch.equal(loaded[key], saved[key]) for key in compared)
    torch.testing.assert_close(loaded["conv_stem.weight"], saved["conv_stem.weight"].sum(1, keepdim=True))
    assert grey_mean_std(net) == (0.5, 0.5)


def test_mean_and_deviation_are_the_backbones_own_for_one_channel() -> None:
    mean, std = grey_mean_std(timm.create_model("densenet121", in_chans=1))
    assert mean == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert std == pytest.approx((0.229 + 0.224 + 0.225) / 3)


def test_weights_of_another_model_are_refused_instead_of_silently_ignored(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match="test_resnet"):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "vit.safetensors"), **NO_DROP)


def test_weights_that_lack_a_layer_are_refused_by_its_name(tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet").state_dict()
    del weights["layer2.0.conv1.weight"]
    save_file(weights, tmp_path / "partial.safetensors")
    with pytest.raises(WeightsError, match=r"holds nothing for 1 layers of test_resnet, the first is layer2\.0\.conv1\.weight"):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "partial.safetensors"), **NO_DROP)


def test_a_file_that_is_not_there_or_is_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        locate_weights("test_resnet", str(tmp_path / "absent.safetensors"))
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="does not fit test_resnet"):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "damaged.safetensors"), **NO_DROP)


def test_a_file_of_torch_in_which_a_bit_has_changed_is_refused(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: torch does not look at the checksums, and took the other number."""
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(path), **NO_DROP)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"does not fit test_resnet, or is damaged: wrong checksum of "):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(path), **NO_DROP)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x02", b"PK\x03\x04"])
def test_no_library_speaks_for_itself_of_a_file_that_it_cannot_read(tmp_path: Path, content: bytes) -> None:
    """Found by scripts/fuzz.py: an end of file within a pickle, and errors without a word."""
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.weights=.*weights\.pth does not fit test_resnet, or is damaged: \w+"):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "weights.pth"), **NO_DROP)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: safetensors have no checksum, and a training would have begun."""
    weights = timm.create_model("test_resnet").state_dict()
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"numbers that are not finite, the first in layer2\.0\.conv1\.weight: it is damaged"):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "weights.safetensors"), **NO_DROP)


class Innocent:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_weights_that_would_run_code_are_refused_and_run_none(tmp_path: Path) -> None:
    torch.save({"state_dict": Innocent(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="does not fit test_resnet"):
        create_backbone("test_resnet", n_findings=3, image_size=64, weights=str(tmp_path / "evil.pth"), **NO_DROP)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(WeightsError, match="did you mean densenet121"):
        locate_weights("densnet121", "none")
