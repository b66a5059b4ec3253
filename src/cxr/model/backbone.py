"""Any timm backbone for one grey channel, with weights from nowhere, from a file, or from the hub."""

import zipfile
from difflib import get_close_matches
from pathlib import Path

import huggingface_hub
import timm
import torch
from torch import nn

from cxr.model.weights import WeightsError, require_hub, require_weights


def create_backbone(name: str, *, n_findings: int, image_size: int, drop_rate: float, drop_path_rate: float, weights: str = "none") -> nn.Module:
    """A timm network of one input channel and one logit per finding.

    Args:
        name: any timm model name, with or without a pretrained tag.
        n_findings: F, logits given out.
        image_size: side of the input in pixels; networks with position embeddings are built for it.
        drop_rate: dropout before the last layer.
        drop_path_rate: stochastic depth.
        weights: "none" (random), "pretrained" (timm's own, from the hub or its cache), or the path of a file of weights for this backbone. A first
            convolution of three channels is summed over them, which is what it computes on a grey film.

    Raises:
        WeightsError: no such backbone; no such file; the hub cannot be reached; or the file is damaged, holds a number that is not finite, or leaves a layer of
            the backbone untouched.
    """
    path = locate_weights(name, weights)
    wanted = timm.get_pretrained_cfg(name)
    shape = {"img_size": image_size} if wanted and wanted.fixed_input_size else {}
    rates = {"drop_rate": drop_rate} | ({"drop_path_rate": drop_path_rate} if drop_path_rate else {})

    def create(**source: object) -> nn.Module:
        return timm.create_model(name, in_chans=1, num_classes=n_findings, **rates, **shape, **source)

    if weights == "none":
        return create(pretrained=False)
    # two networks from one seed: where they agree afterwards, the file had nothing for that layer, which timm does not say
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = create(pretrained=False)
        torch.manual_seed(0)
        try:
            if path:
                _require_sums(path)
            net = create(pretrained=True, **({"pretrained_cfg_overlay": {"file": str(path)}} if path else {}))
        except Exception as error:  # whatever timm, torch and safetensors say of a damaged file, or of another network's
            told = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise WeightsError(f"model.weights={weights} does not fit {name}, or is damaged: {told}") from error
    broken = [key for key, value in net.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise WeightsError(f"model.weights={weights} holds numbers that are not finite, the first in {broken[0]}: it is damaged")
    head = {id(parameter) for parameter in net.get_classifier().parameters()}
    pairs = zip(net.named_parameters(), untrained.parameters(), strict=True)
    missed = [key for (key, new), old in pairs if new.ndim > 1 and id(new) not in head and torch.equal(new, old)]
    if missed:
        raise WeightsError(f"model.weights={weights} holds nothing for {len(missed)} layers of {name}, the first is {missed[0]}: is it another model's?")
    return net


def _require_sums(path: Path) -> None:
    """Holds a file of torch against the checksums in it, which torch does not do; safetensors, and torch's files of long ago, have none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise WeightsError(f"wrong checksum of {damaged}")


def locate_weights(name: str, weights: str) -> Path | None:
    """Makes sure, within seconds, that the weights can be had.

    Args:
        name, weights: as in `create_backbone`.

    Returns:
        The file: the given one, or the hub's in the local cache. None where there is nothing to read, or where it is to be downloaded and the hub answers.

    Raises:
        WeightsError: no such backbone, no such file, or the hub cannot be reached.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        raise WeightsError(f"model.name={name}: timm has no such model" + (f"; did you mean {near[0]}?" if near else ""))
    require_weights(name, weights)
    if weights != "pretrained":
        return None if weights == "none" else Path(weights)
    wanted = timm.get_pretrained_cfg(name)
    if wanted is None or not wanted.has_weights:
        raise WeightsError(f"model.weights=pretrained: timm has no pretrained weights for {name}; use model.weights=none or a path")
    if not wanted.hf_hub_id:
        return None
    for file in ("model.safetensors", "pytorch_model.bin"):
        cached = huggingface_hub.try_to_load_from_cache(wanted.hf_hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    require_hub(name)
    return None


def grey_mean_std(net: nn.Module) -> tuple[float, float]:
    """The mean and standard deviation, for pixels in [0, 1], that the backbone expects of one grey channel: its own, averaged over red, green and blue.

    timm keeps three values of each for one input channel too.
    """
    config = net.pretrained_cfg
    return sum(config["mean"]) / len(config["mean"]), sum(config["std"]) / len(config["std"])


def set_prevalence(net: nn.Module, prevalence: torch.Tensor) -> None:
    """Starts every finding's logit at its prevalence (Lin et al. 2017, section 4.1), so that the first steps need not learn that findings are rare.

    Args:
        net: from `create_backbone`.
        prevalence: (F,) of the training films.
    """
    linear = last_layer(net)
    if linear is None or linear.bias.shape != prevalence.shape:
        raise WeightsError(f"the last layer of {type(net).__name__} has no bias per finding to start at the prevalence")
    with torch.no_grad():
        linear.bias.copy_(torch.logit(prevalence.clamp(1e-3, 1 - 1e-3)))


def last_layer(net: nn.Module) -> nn.Linear | nn.Conv2d | None:
    """The layer that makes logits of features; None where it has no bias."""
    return next((layer for layer in net.get_classifier().modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None), None)
