"""Heat maps of a network's findings: which parts of its input a logit rests on. The only file that knows pytorch_grad_cam.

Grad-CAM (Selvaraju et al. 2017) weighs the channels of a layer by their gradients, each averaged over the whole map. That is sound for the last convolution,
behind which a network takes the mean over the map. A transformer's class token takes from every place with a weight of its own, which an average forgets;
HiResCAM (Draelos & Carin 2020) multiplies gradient and activation place by place, so it shows the places that raised the logit. Behind a mean over the map
the two are one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from cxr.model.classifier import Classifier

METHODS = {"gradcam": GradCAM, "hirescam": HiResCAM}

# a map of fewer cells a side points nowhere: 224 pixels at the usual stride of 32 have 7
LEAST_CELLS = 7


class HeatMapError(ValueError):
    """No heat map can be made of this network."""


class HeatMaps:
    """Heat maps of one network.

    Args:
        model: on the device that is to be used; it is put into evaluation mode.
        method: "gradcam", "hirescam", or "auto": the second for transformers, the first for all others.

    Attributes:
        method: the one that is used.
        layer: name of the layer whose map is read.
        cells: its cells a side.

    Raises:
        HeatMapError: no such method, or no layer of the network gives a map.
    """

    def __init__(self, model: Classifier, *, method: str = "auto"):
        if method not in (*METHODS, "auto"):
            raise HeatMapError(f"method={method}: no such method; there are auto, {', '.join(METHODS)}")
        self.model, self.image_size = model.eval(), int(model.hparams["image_size"])
        self.layer, self.cells, is_transformer = _find_layer(model, self.image_size)
        self.method = ("hirescam" if is_transformer else "gradcam") if method == "auto" else method
        self._cam: Any = METHODS[self.method](model=model, target_layers=[model.get_submodule(self.layer)], reshape_transform=_as_picture(model.net))

    def maps(self, images: torch.Tensor, columns: Sequence[int]) -> np.ndarray:
        """Heat maps of some films, one forward and one backward pass for each finding.

        Args:
            images: (B, 1, S, S) uint8, S at least image_size; the centre is cut out, as the network does it.
            columns: findings, as indices into the logits.

        Returns:
            (B, len(columns), image_size, image_size) float32 in [0, 1], each with a maximum of 1; all 0 where nothing raised the logit.
        """
        at = (images.shape[-1] - self.image_size) // 2
        centre = images[..., at : at + self.image_size, at : at + self.image_size]
        with torch.enable_grad():
            maps = np.stack([self._cam(centre, [ClassifierOutputTarget(column)] * len(centre)) for column in columns], axis=1)
        self.model.zero_grad(set_to_none=True)
        self._cam.activations_and_grads.clear()
        # the library adds 1e-7 before it divides, and a faint map would come out too cold for any threshold
        hottest = maps.max(axis=(2, 3), keepdims=True)
        return (maps / np.where(hottest > 0, hottest, 1)).astype(np.float32)


def _is_token_transformer(net: nn.Module) -> bool:
    """timm's plain vision transformers: every block gives a row of tokens, not a map."""
    return hasattr(net, "num_prefix_tokens") and hasattr(net, "blocks")


def _find_layer(model: Classifier, image_size: int) -> tuple[str, int, bool]:
    """(name, cells a side, whether the network is a transformer) of the last layer whose map is fine enough."""
    net = model.net
    if _is_token_transformer(net):
        # behind its attention the patches of the last block no longer reach a class token: their gradient is 0
        return f"net.blocks.{len(net.blocks) - 1}.norm1", net.patch_embed.grid_size[0], True
    first = 1 if _is_channels_last(net) else 2
    seen, handles = dict[str, list[torch.Size]](), []
    for name, layer in model.named_modules():
        if name.startswith("net."):
            handles.append(layer.register_forward_hook(lambda _, __, output, name=name: seen.setdefault(name, []).append(getattr(output, "shape", ()))))
    with torch.no_grad():
        model(torch.zeros(2, 1, image_size, image_size, dtype=torch.uint8, device=model.device))
    for handle in handles:
        handle.remove()
    # one that is used twice has two maps
    cells = {name: shape[first] for name, (shape, *more) in seen.items() if not more and len(shape) == 4 and shape[0] == 2 and shape[first] == shape[first + 1]}
    deepest = [name for name, n in cells.items() if n > 1][-1:]
    # within a stage a shortcut may lead past a layer; through these everything passes
    stages = [f"net.{stage['module']}" for stage in getattr(net, "feature_info", [])]
    for name in deepest + stages[::-1]:
        if cells.get(name, 0) >= LEAST_CELLS:
            return name, cells[name], _is_channels_last(net)
    raise HeatMapError(f"{model.hparams['model']['name']}: no layer gives a map of {LEAST_CELLS} cells a side or more for films of {image_size} pixels")


def _is_channels_last(net: nn.Module) -> bool:
    """timm's transformers of windows (Swin) give maps of (B, H, W, C)."""
    return getattr(net, "output_fmt", "NCHW") == "NHWC"


def _as_picture(net: nn.Module) -> Any:
    """What makes a layer's output (B, C, H, W); None where it is that."""
    if _is_token_transformer(net):
        grid = net.patch_embed.grid_size
        return lambda tokens: tokens[:, net.num_prefix_tokens :].unflatten(1, grid).permute(0, 3, 1, 2)
    return (lambda maps: maps.permute(0, 3, 1, 2)) if _is_channels_last(net) else None
