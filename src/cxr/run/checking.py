"""Does an installation predict what it should? A network and a film that a formula makes, and logits written down; and the same of an exported model."""

import logging
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from cxr.cohort.findings import NIH_FINDINGS
from cxr.run import RunError
from cxr.run.predicting import Predictor
from cxr.run.trained import make_classifier, write_bare

log = logging.getLogger(__name__)

IMAGE_SIZE, STORE_SIZE = 56, 64
NETWORK = {
    "findings": list(NIH_FINDINGS),
    "monitored": list(NIH_FINDINGS),
    "prevalence": [0.5] * len(NIH_FINDINGS),
    "model": {"name": "test_resnet", "drop_rate": 0.0, "drop_path_rate": 0.0, "freeze_epochs": 0, "channels_last": True},
    "loss": {"name": "bce"},
    "optim": {"name": "adamw"},
    "image_size": IMAGE_SIZE,
    "seed": 0,
}
# what this network says of the drawn film, as written down with these versions
LOGITS = (-4.205648, 0.607288, 4.520661, -2.871397, -2.488133, -3.652352, -0.206099, -1.420244, -2.155516, 2.375607, 2.104445, -4.770691, -3.708796, 0.24887)
WITH = {"torch": "2.15.0", "timm": "1.0.31", "numpy": "2.4.6", "opencv-python-headless": "4.14.0.94"}
# other processors and versions round otherwise: a grey level more in every tenth pixel makes 6e-3, and of pixels that are given, floats make 1e-5
TOLERANCE, EXPORTED_TOLERANCE = 5e-3, 1e-3


def check(checkpoint: str | None) -> None:
    """Says that an installation, or an exported model on it, predicts as expected.

    Args:
        checkpoint: an exported folder; None takes the network of a formula.

    Raises:
        RunError: it does not, and which versions are others than those it was written down with; or the checkpoint holds nothing to compare with.
    """
    if checkpoint is None:
        with tempfile.TemporaryDirectory() as folder:
            worst = check_installation(Path(folder))
        log.info("The installation predicts as expected: logits differ by %.1e at most (allowed: %g)", worst, TOLERANCE)
        return
    predictor = Predictor(checkpoint, accelerator="cpu")
    expected = predictor.trained.facts.get("reference_logits")
    if expected is None:
        raise RunError(f"{checkpoint}: only what scripts/export.py wrote says what it should predict; without checkpoint, check=true checks the installation")
    films = drawn_films(len(expected), predictor.store_size)
    worst = _compare(checkpoint, predictor.logits(films).numpy(), np.array(expected), EXPORTED_TOLERANCE, {})
    log.info("%s predicts as when it was exported: logits differ by %.1e at most (allowed: %g)", checkpoint, worst, EXPORTED_TOLERANCE)


def check_installation(folder: Path) -> float:
    """The largest difference from LOGITS, of a film that is written, read and predicted; as PNG and, where pydicom is installed, as DICOM.

    Args:
        folder: that is empty.

    Raises:
        RunError: it is more than TOLERANCE.
    """
    import cv2

    from cxr.dicom import MissingPackageError, film_bytes

    write_reference_model(folder)
    pixels = drawn_films(1, 150)[0][:, 10:130]
    (folder / "film.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    films = [folder / "film.png"]
    try:
        (folder / "film.dcm").write_bytes(film_bytes(np.ascontiguousarray(pixels), bits=8))
        films.append(folder / "film.dcm")
    except MissingPackageError as error:
        log.info("Not checked: %s", error)
    predictor = Predictor(folder, accelerator="cpu")
    logits = np.array([[told.logit for told in predictor.predict(film)] for film in films])
    return _compare("this installation", logits, np.array([LOGITS] * len(films)), TOLERANCE, WITH)


def _compare(what: str, logits: np.ndarray, expected: np.ndarray, tolerance: float, written_with: dict[str, str]) -> float:
    worst = float(np.abs(logits - expected).max())
    if worst <= tolerance:
        return worst
    others = [f"{name} {_version(name)} (then {then})" for name, then in written_with.items() if _version(name) != then]
    told = f"; other versions than when it was written down: {', '.join(others)}" if others else ""
    raise RunError(f"{what} predicts otherwise than expected: logits differ by {worst:.1e}, more than {tolerance:g}{told}")


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "not installed"


def drawn_films(n: int, size: int) -> np.ndarray:
    """(n, size, size) uint8 of rings, from coarse to fine: whole numbers alone, so that they are the same everywhere."""
    y, x = np.mgrid[:size, :size].astype(np.int64)
    return np.stack([((x * x * (k + 2) + y * y * (n - k + 1) + 3 * x * y) // size % 256).astype(np.uint8) for k in range(n)])


def write_reference_model(folder: Path) -> None:
    """An exported folder of the network whose weights a formula makes; numpy's bits, unlike its numbers, never change."""
    from torch import Tensor, from_numpy

    classifier, weights = make_classifier(NETWORK), dict[str, Tensor]()
    for number, (name, value) in enumerate(classifier.net.state_dict().items()):
        if not value.is_floating_point():
            weights[name] = value
            continue
        centred = (np.random.PCG64(number).random_raw(value.numel()) >> 11) * 2.0**-53 - 0.5
        spread = (24 * len(value) / value.numel()) ** 0.5 if value.ndim > 1 else 0.2  # variance 2 / fan-in (He et al. 2015)
        made = spread * centred + (value.ndim == 1 and name.endswith(("weight", "running_var")))
        weights[name] = from_numpy(made.astype(np.float32).reshape(tuple(value.shape)))
    write_bare(folder, NETWORK, weights, store_size=STORE_SIZE)
