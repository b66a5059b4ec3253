"""Published weights that have seen films of ChestX-ray14's official test list, so that no report takes them for a test on unseen films.

Only what a source says is listed. Silence is no innocence: for many published encoders nobody outside knows on which films they were trained.
"""

import re
from dataclasses import dataclass

# weights of which the sources disagree or are silent, for docs/other_sets.md
UNKNOWN = ("CXR Foundation (ELIXR)", "CXR-CLIP trained with ChestX-ray14", "CheXagent", "MedSigLIP (179 films of unknown name)")


@dataclass(frozen=True)
class Seen:
    """Weights.

    Attributes:
        names: parts of file names or hub ids, lower case, by which they go.
        what: which weights.
        films: what they have seen.
        source: who says so.
        sha256: of known files.
    """

    names: tuple[str, ...]
    what: str
    films: str
    source: str
    sha256: tuple[str, ...] = ()


REGISTRY = (
    Seen(
        ("densenet121-res224-all", "nih-pc-chex-mimic", "chex-nih-mimic", "densenet121-model_2_cropped"),
        "torchxrayvision DenseNet-121, all data sets",
        "a random half of all 112,120 films",
        "github.com/mlmed/torchxrayvision, scripts/train_model.py (random_split over the whole set); Cohen et al. 2020",
    ),
    Seen(
        ("densenet121-res224-nih", "nih-densenet121"),
        "torchxrayvision DenseNet-121, NIH",
        "a random half of all 112,120 films",
        "github.com/mlmed/torchxrayvision, scripts/train_model.py (random_split over the whole set); Cohen et al. 2020",
    ),
    Seen(
        ("densenet121-res224-rsna", "kaggle-densenet121"),
        "torchxrayvision DenseNet-121, RSNA",
        "a random half of RSNA's films, 8,196 of which are in the official test list",
        "github.com/mlmed/torchxrayvision, scripts/train_model.py; RSNA's mapping file",
    ),
    Seen(
        ("resnet50-res512-all", "pc-nih-rsna-siim-vin"),
        "torchxrayvision ResNet-50, all data sets",
        "films of all 112,120, RSNA's and SIIM's among them",
        "github.com/mlmed/torchxrayvision, README (trained on pc-nih-rsna-siim-vin)",
    ),
    Seen(
        ("rad-dino", "raddino"),
        "RAD-DINO",
        "all 25,596 of the official test list",
        "huggingface.co/microsoft/rad-dino, model card and training_images.csv; Perez-Garcia et al. 2025",
    ),
    Seen(
        ("medimageinsight",),
        "MedImageInsight",
        "11,616 of the official test list (it was trained on the training list of NIH-CXR-LT, which divides ChestX-ray14 anew)",
        "Codella et al. 2024; Holste et al. 2022 (lists of NIH-CXR-LT)",
    ),
    Seen(
        ("m-25012018-123527",),
        "CheXNet by zoogzog",
        "a random split, 70 % of all 112,120 films",
        "github.com/zoogzog/chexnet, README (the lists of arnoweng/CheXNet)",
    ),
    Seen(
        ("arnoweng", "chexnet-model.pth", "chexnet_model.pth"),
        "CheXNet by arnoweng",
        "a random split, 70 % of all 112,120 films",
        "github.com/arnoweng/CheXNet, README",
    ),
)


def saw_test_films(weights: str, model: str, sha256: str | None = None) -> dict[str, str] | None:
    """What is known of the weights' having seen films of the official test list; None where nothing is.

    Args:
        weights: the configuration's: none, pretrained, or a path.
        model: name of the network, which may be an id on a hub.
        sha256: of the weights' file.

    >>> saw_test_films("/weights/Microsoft_RAD-DINO.safetensors", "vit_base_patch14_dinov2")["what"]
    'RAD-DINO'
    >>> saw_test_films("none", "rad-dino") is saw_test_films("pretrained", "densenet121") is None
    True
    """
    if weights == "none":
        return None
    # the last folders of a path often name what the file does not
    told = (model if weights == "pretrained" else "/".join(weights.split("/")[-3:])).lower()
    for seen in REGISTRY:
        if sha256 in seen.sha256 or any(re.search(rf"(?<![a-z0-9]){re.escape(name)}", told) for name in seen.names):
            return {"what": seen.what, "films": seen.films, "source": seen.source}
    return None
