"""Mirrors explain/heatmaps.py: maps against their definition, computed by hand, on every kind of backbone."""

import cv2
import numpy as np
import pytest
import torch

from cxr.explain.heatmaps import HeatMapError, HeatMaps
from cxr.model.classifier import Classifier


def classifier(name: str, image_size: int) -> Classifier:
    torch.manual_seed(0)
    model = {"name": name, "drop_rate": 0.0, "drop_path_rate": 0.0, "freeze_epochs": 0, "channels_last": True, "compile": False}
    findings = ["A", "B", "C"]
    return Classifier(
        findings=findings, monitored=findings, prevalence=[0.1] * 3, model=model, loss={"name": "bce"}, optim={"name": "adamw"}, image_size=image_size, seed=0
    )


def films(n: int, side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 1, side, side), dtype=np.uint8))


def by_hand(model: Classifier, images: torch.Tensor, column: int, layer: str, as_picture: str, place_by_place: bool) -> np.ndarray:
    """Grad-CAM and HiResCAM from their formulas, by autograd; layers by their names in timm."""
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))
    logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, column].sum(), kept[0])
    maps = [kept[0].detach(), gradient]
    if as_picture == "tokens":
        side = round((maps[0].shape[1] - model.net.num_prefix_tokens) ** 0.5)
        maps = [m[:, -side * side :].reshape(len(m), side, side, -1) for m in maps]
    if as_picture in ("tokens", "last"):
        maps = [m.movedim(-1, 1) for m in maps]
    activation, gradient = maps
    weights = gradient if place_by_place else gradient.mean((2, 3), keepdim=True)
    heat = (weights * activation).sum(1).clamp_min(0).numpy()
    size = (model.hparams["image_size"],) * 2
    larger = np.stack([cv2.resize(one, size) for one in heat])
    larger -= larger.min((1, 2), keepdims=True)
    return larger / np.where(larger.any((1, 2), keepdims=True), larger.max((1, 2), keepdims=True), 1)


@pytest.mark.parametrize(
    ("name", "side", "layer", "as_picture", "method", "cells"),
    [
        ("test_resnet", 224, "net.layer4", "first", "gradcam", 7),
        ("test_resnet", 64, "net.layer2", "first", "gradcam", 8),
        ("test_efficientnet", 224, "net.bn2", "first", "gradcam", 7),
        ("test_convnext", 224, "net.norm_pre", "first", "gradcam", 7),
        ("test_vit", 160, "net.blocks.5.norm1", "tokens", "hirescam", 10),
        ("swin_tiny_patch4_window7_224", 224, "net.norm", "last", "hirescam", 7),
    ],
)
def test_a_map_is_what_its_definition_says(name: str, side: int, layer: str, as_picture: str, method: str, cells: int) -> None:
    model = classifier(name, side)
    heat_maps = HeatMaps(model, method="auto")
    assert (heat_maps.layer, heat_maps.method, heat_maps.cells) == (layer, method, cells)
    stored = films(2, side + 6)
    maps = heat_maps.maps(stored, [2, 0])
    assert (maps.dtype, maps.shape) == (np.float32, (2, 2, side, side))
    assert maps.min() >= 0
    # an untrained network has findings that nothing in a film speaks for
    assert set(maps.max(axis=(2, 3)).ravel()) in ({1.0}, {0.0, 1.0})
    for k, column in enumerate([2, 0]):
        np.testing.assert_allclose(maps[:, k], by_hand(model, stored, column, layer, as_picture, method == "hirescam"), rtol=0, atol=1e-4)


def test_both_methods_are_one_behind_a_mean_over_the_map_and_differ_before_it() -> None:
    model, images = classifier("test_resnet", 224), films(1, 224)
    np.testing.assert_allclose(HeatMaps(model, method="gradcam").maps(images, [1]), HeatMaps(model, method="hirescam").maps(images, [1]), rtol=0, atol=1e-4)
    model, images = classifier("test_resnet", 64), films(2, 64)
    one, other = (HeatMaps(model, method=method).maps(images, [0, 1, 2]) for method in ("gradcam", "hirescam"))
    assert np.abs(one - other).max() > 0.1


def test_maps_leave_the_network_as_it_was() -> None:
    model, images = classifier("test_resnet", 64), films(2, 64)
    model.eval()
    with torch.no_grad():
        before = model(images)
    heat_maps = HeatMaps(model, method="gradcam")
    first = heat_maps.maps(images, [0, 1])
    np.testing.assert_array_equal(heat_maps.maps(images, [1]), first[:, 1:])
    with torch.no_grad():
        assert torch.equal(model(images), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_shown_is_said() -> None:
    with pytest.raises(HeatMapError, match="method=saliency: no such method; there are auto, gradcam, hirescam"):
        HeatMaps(classifier("test_resnet", 64), method="saliency")
    with pytest.raises(HeatMapError, match="test_resnet: no layer gives a map of 7 cells a side or more for films of 12 pixels"):
        HeatMaps(classifier("test_resnet", 12), method="auto")
