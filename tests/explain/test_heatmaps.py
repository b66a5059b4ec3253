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


def by_hand(model: Classifier, images: torch.Tensor, column: int, layers: list[str], as_picture: str, place_by_place: bool) -> np.ndarray:
    """Grad-CAM and HiResCAM from their formulas, by autograd; layers by their names in timm."""
    kept: list[torch.Tensor] = []
    handles = [model.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output)) for layer in layers]
    logits = model(images)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(logits[:, column].sum(), kept)
    size = (model.hparams["image_size"],) * 2
    return scaled(np.mean([scaled(one_layer(*pair, model, as_picture, place_by_place), size) for pair in zip(kept, gradients, strict=True)], axis=0))


def one_layer(activation: torch.Tensor, gradient: torch.Tensor, model: Classifier, as_picture: str, place_by_place: bool) -> np.ndarray:
    maps = [activation.detach(), gradient]
    if as_picture == "tokens":
        side = round((maps[0].shape[1] - model.net.num_prefix_tokens) ** 0.5)
        maps = [m[:, -side * side :].reshape(len(m), side, side, -1) for m in maps]
    if as_picture in ("tokens", "last"):
        maps = [m.movedim(-1, 1) for m in maps]
    weights = maps[1] if place_by_place else maps[1].mean((2, 3), keepdim=True)
    return (weights * maps[0]).sum(1).clamp_min(0).numpy()


def scaled(maps: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """From 0 to 1, at most made larger before; one that is level becomes 0."""
    maps = maps - maps.min((1, 2), keepdims=True)
    highest = maps.max((1, 2), keepdims=True)
    maps = maps / np.where(highest > 0, highest, 1)
    return np.stack([cv2.resize(one, size) for one in maps]) if size else maps


@pytest.mark.parametrize(
    ("name", "side", "method", "used", "layers", "as_picture"),
    [
        ("test_resnet", 224, "auto", "gradcam", {"net.layer4": 7}, "first"),
        ("test_resnet", 64, "auto", "gradcam", {"net.layer2": 8}, "first"),
        ("test_resnet", 64, "hirescam", "hirescam", {"net.layer2": 8, "net.layer1": 16}, "first"),
        ("test_efficientnet", 224, "auto", "gradcam", {"net.bn2": 7}, "first"),
        ("test_convnext", 224, "hirescam", "hirescam", {"net.norm_pre": 7, "net.stages.2": 14}, "first"),
        ("test_vit", 160, "auto", "hirescam", {"net.blocks.5.norm1": 10}, "tokens"),
        ("swin_tiny_patch4_window7_224", 224, "auto", "hirescam", {"net.norm": 7, "net.layers.2": 14}, "last"),
    ],
)
def test_a_map_is_what_its_definition_says(name: str, side: int, method: str, used: str, layers: dict[str, int], as_picture: str) -> None:
    model = classifier(name, side)
    heat_maps = HeatMaps(model, method=method)
    assert (list(heat_maps.layers.items()), heat_maps.method) == (list(layers.items()), used)
    stored = films(2, side + 6)
    maps = heat_maps.maps(stored, [2, 0])
    assert (maps.dtype, maps.shape) == (np.float32, (2, 2, side, side))
    assert maps.min() >= 0
    # an untrained network has findings that nothing in a film speaks for
    assert set(maps.max(axis=(2, 3)).ravel().round(4)) in ({1.0}, {0.0, 1.0})
    for k, column in enumerate([2, 0]):
        np.testing.assert_allclose(maps[:, k], by_hand(model, stored, column, list(layers), as_picture, used == "hirescam"), rtol=0, atol=1e-3)


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
