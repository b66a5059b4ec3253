"""Can the weights be had? Answered within seconds, before torch and timm are loaded and before a film is decoded."""

import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import constants

# how long the hub may take to say that it is there; timm alone would retry for 46 seconds
HUB_SECONDS = 2.0


class WeightsError(ValueError):
    """The backbone or its weights are not to be had, or do not fit."""


def require_weights(name: str, weights: str) -> None:
    """Raises WeightsError if the weights cannot be had: no such file, or neither in the hub's cache nor the hub within reach.

    Args:
        name: of the timm model.
        weights: "none", "pretrained" or a path, as in `cxr.model.backbone.create_backbone`.
    """
    if weights == "none":
        return
    if weights != "pretrained":
        if not Path(weights).is_file():
            raise WeightsError(f"model.weights={weights}: no such file (none, pretrained, or the path of a file)")
        return
    # a folder per repository, whose name holds the model's; whether it holds the very file, timm knows
    if not list(Path(constants.HF_HUB_CACHE).glob(f"models--*{name.split('.')[0]}*")):
        require_hub(name)


def require_hub(name: str) -> None:
    """Raises WeightsError unless the hub answers within HUB_SECONDS."""
    # a name that resolves slowly is not covered by a socket's timeout, so the probe runs on a thread of its own
    pool = ThreadPoolExecutor(1)
    probe = pool.submit(urllib.request.urlopen, urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_SECONDS)
    pool.shutdown(wait=False)
    try:
        probe.result(timeout=HUB_SECONDS)
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, TimeoutError) as error:
        raise WeightsError(
            f"model.weights=pretrained: the weights of {name} are not in the local cache and {constants.ENDPOINT} cannot be reached"
            f" ({error or 'no answer'}); use model.weights=/path/to/file or model.weights=none"
        ) from error
