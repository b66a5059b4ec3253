"""Heat maps of a network's findings: which parts of its input a logit rests on. The only file that knows pytorch_grad_cam.

Grad-CAM (Selvaraju et al. 2017) weighs the channels of a layer by their gradients, each averaged over the whole map. That is sound for the last convolution,
behind which a network takes the mean over the map, and for no other place: the gradient differs from place to place wherever more layers follow, and in a
transformer, whose class token takes from every patch with a weight of its own. HiResCAM (Draelos & Carin 2020) multiplies gradient and activation place by
place, so it shows the places that raised the logit. Being sound there too, it is read at two stages, and the mean of both maps is taken, as the stages of
LayerCAM are fused (Jiang et al. 2021): the deeper one knows what, the finer one where.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from torch import nn

from cxr.model.classifier import Classifier

# method -> its class, and how many stages it reads, the deepest first
METHODS = {"gradcam": (GradCAM, 1), "hirescam": (HiResCAM, 2)}

# a map of fewer cells a side points nowhere: 224 pixels at the usual stride of 32 have 7
LEAST_CELLS = 7
# the library adds 1e-7 to a map's maximum before it divides by it, and a faint map would come out cold; a map does not depend on its logit's unit
GAIN = 1e4


class HeatMapError(ValueError):
    """No heat map can be made of this network."""


class HeatMaps:
    """Heat maps of one network.

    Args:
        model: on the device that is to be used; it is put into evaluation mode.
        method: "gradcam", "hirescam", or "auto": the second for transformers, the first for all others.

    Attributes:
        method: the one that is used.
        layers: name of each layer whose map is read -> its cells a side; the deepest first.

    Raises:
        HeatMapError: no such method, or no layer of the network gives a map.
    """

    def __init__(self, model: Classifier, *, method: str = "auto"):
        if method not in (*METHODS, "auto"):
            raise HeatMapError(f"method={method}: no such method; there are auto, {', '.join(METHODS)}")
        self.model, self.image_size = model.eval(), int(model.hparams["image_size"])
        is_transformer = _is_token_transformer(model.net) or _is_channels_last(model.net)
        self.method = ("hirescam" if is_transformer else "gradcam") if method == "auto" else method
        kind, n_stages = METHODS[self.method]
        self.layers = dict(list(_find_layers(model, self.image_size).items())[:n_stages])
        self._cam: Any = kind(model=model, target_layers=[*map(model.get_submodule, self.layers)], reshape_transform=_as_picture(model.net))

    def maps(self, images: torch.Tensor, columns: Sequence[int]) -> np.ndarray:
        """Heat maps of some films, one forward and one backward pass for each finding.

        Args:
            images: (B, 1, S, S) uint8, S at least image_size; the centre is cut out, as the network does it.
            columns: findings, as indices into the logits.

        Returns:
            (B, len(columns), image_size, image_size) float32 in [0, 1], each with a maximum of 1; all 0 where no place raised the logit more than others.
        """
        at = (images.shape[-1] - self.image_size) // 2
        centre = images[..., at : at + self.image_size, at : at + self.image_size]
        with torch.enable_grad():
            maps = [self._cam(centre, [lambda logits, column=column: GAIN * logits[column]] * len(centre)) for column in columns]
        self.model.zero_grad(set_to_none=True)
        self._cam.activations_and_grads.clear()
        return np.stack(maps, axis=1).astype(np.float32)


def _is_token_transformer(net: nn.Module) -> bool:
    """timm's plain vision transformers: every block gives a row of tokens, not a map."""
    return hasattr(net, "num_prefix_tokens") and hasattr(net, "blocks")


def _find_layers(model: Classifier, image_size: int) -> dict[str, int]:
    """name -> cells a side, of the layers whose map is fine enough, the deepest first: the last layer, and the ends of the stages before it."""
    net = model.net
    if _is_token_transformer(net):
        # behind its attention the patches of the last block no longer reach a class token: their gradient is 0
        return {f"net.blocks.{len(net.blocks) - 1}.norm1": net.patch_embed.grid_size[0]}
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
    fine = [name for name in deepest + stages[::-1] if cells.get(name, 0) >= LEAST_CELLS]
    if not fine:
        raise HeatMapError(f"{model.hparams['model']['name']}: no layer gives a map of {LEAST_CELLS} cells a side or more for films of {image_size} pixels")
    found = dict[str, int]()
    for name in fine:  # of layers of one size, the last
        if cells[name] not in found.values():
            found[name] = cells[name]
    return found


def _is_channels_last(net: nn.Module) -> bool:
    """timm's transformers of windows (Swin) give maps of (B, H, W, C)."""
    return getattr(net, "output_fmt", "NCHW") == "NHWC"


def _as_picture(net: nn.Module) -> Any:
    """What makes a layer's output (B, C, H, W); None where it is that."""
    if _is_token_transformer(net):
        grid = net.patch_embed.grid_size
        return lambda tokens: tokens[:, net.num_prefix_tokens :].unflatten(1, grid).permute(0, 3, 1, 2)
    return (lambda maps: maps.permute(0, 3, 1, 2)) if _is_channels_last(net) else None
