"""A trained model as it is taken along: read from a run folder, its best checkpoint, or the folder that scripts/export.py wrote.

Whatever it is read from, the same facts come out: the network, how films become its input, and what was fixed on validation films. In an exported folder they
are config.json; of a run they come from its config.yaml, its checkpoint and its report.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cxr
from cxr.config import store_size
from cxr.resume import CONFIG, REPORT, file_sha256
from cxr.run import RunError
from cxr.run.reading import read_finished
from cxr.run.reporting import read_config

if TYPE_CHECKING:
    import torch

    from cxr.model.classifier import Classifier

FACTS, WEIGHTS = "config.json", "model.safetensors"
# the set whose thresholds and recalibration are those of the model's own findings: of text-mined labels, from nih_val
OWN_SET = "nih_test"
NO_REPORT = "the run has no report"
# what a Classifier is made of, without what only a training needs and has a default
NETWORK = ("findings", "monitored", "prevalence", "model", "loss", "optim", "image_size", "seed")


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        facts: findings; image_size and store_size, pixels; reading {fit, dicom_window}, and rule, the same in words; mean and std, for pixels in [0, 1];
            precision; network (what a Classifier is made of); operating {rule, points {finding: {rule, threshold, target, source, text_mined_target} or
            {reason}}}; calibration {finding: {slope, intercept, source, text_mined_target} or {reason}}; protocol; checkpoint_sha256; package_version.
        weights: of the network, by name.
        report: the content of the run's report.json; None where there is none, and for an exported folder.
        folder: that it was read from.
    """

    facts: dict[str, Any]
    weights: "dict[str, torch.Tensor]"
    report: dict[str, Any] | None
    folder: Path

    def classifier(self) -> "Classifier":
        """The network with its weights, as it predicts."""
        try:
            classifier = make_classifier(self.facts["network"])
        except Exception as error:  # whatever timm and torch say of values that make no network
            told = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise RunError(f"{self.folder}: no network can be made of what is told of it ({told}): damaged, or of another version") from error
        try:
            classifier.net.load_state_dict(self.weights)
        except RuntimeError as error:
            raise RunError(f"{self.folder}: the weights do not fit the network: {' '.join(str(error).split())[:200]}") from error
        return classifier.eval()


def make_classifier(network: Mapping[str, Any]) -> "Classifier":
    """A network without its weights.

    Args:
        network: what a Classifier is made of. It is not compiled: that takes minutes, and pays in a training.
    """
    from cxr.model.classifier import Classifier

    return Classifier(**{**network, "model": {**network["model"], "compile": False}})


def read_trained(path: Path) -> Trained:
    """Reads a trained model.

    Args:
        path: a run folder, its checkpoints/best.ckpt, or an exported folder.

    Raises:
        RunError: it is none of these, it is damaged, or its report is another checkpoint's.
        CheckpointError: of the checkpoint.
    """
    from cxr.model.checkpoint import BEST

    path = path.absolute()
    if (path / FACTS).is_file() and (path / WEIGHTS).is_file():
        return _read_exported(path)
    if path.name == BEST and (path.parents[1] / CONFIG).is_file():
        path = path.parents[1]
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: neither a run folder ({CONFIG}), nor its checkpoints/{BEST}, nor what scripts/export.py wrote ({FACTS}, {WEIGHTS})")
    if not (path / "checkpoints" / BEST).is_file():
        raise RunError(f"{path}/checkpoints/{BEST}: no such file. A model is read from its checkpoint; an ensemble has none")
    return _read_run(path, path / "checkpoints" / BEST)


def _read_run(folder: Path, checkpoint: Path) -> Trained:
    from cxr.data.decode import Reading
    from cxr.model.checkpoint import read_checkpoint
    from cxr.report.predictions import read_predictions

    content, sha256 = read_checkpoint(checkpoint), file_sha256(checkpoint)
    plain, data = read_config(folder, root=None, expert_labels=None)
    report, predictions = None, folder / "predictions.parquet"
    if (folder / REPORT).is_file():
        report = read_finished(folder).report
        if predictions.is_file() and read_predictions(predictions, splits=("val",)).metadata["checkpoint_sha256"] != sha256:
            raise RunError(f"{folder}/{REPORT} is of another checkpoint than {checkpoint}: what it fixed would be wrong for this one")
    try:
        network = {key: content["hyper_parameters"][key] for key in NETWORK}
        fixed = fixed_on_validation(report, network["findings"]) if report else {}
        if fixed:
            _require_numbers(network["findings"], fixed)
        told = {
            "precision": plain["trainer"]["precision"],
            "protocol": {"experiment": "", "data": data.name, "model": plain["model"]["name"], "seed": plain["seed"]},
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{folder}: its checkpoint, its report or its {CONFIG} says nothing of {error}: made by another version, or damaged") from error
    classifier, reading = make_classifier(network), Reading(fit=data.fit.value, dicom_window=data.dicom_window.value)
    facts = {
        "package_version": cxr.__version__,
        "findings": network["findings"],
        "image_size": network["image_size"],
        "store_size": store_size(data),
        "reading": asdict(reading),
        "rule": reading.rule([Path("film.dcm")]),
        "mean": classifier.mean,
        "std": classifier.std,
        "operating": {"rule": None, "points": {finding: {"reason": NO_REPORT} for finding in network["findings"]}},
        "calibration": {finding: {"reason": NO_REPORT} for finding in network["findings"]},
        "checkpoint_sha256": sha256,
        "network": network,
    }
    return Trained(
        facts | told | fixed, {name.removeprefix("net."): value for name, value in content["state_dict"].items() if name.startswith("net.")}, report, folder
    )


def fixed_on_validation(report: Mapping[str, Any], findings: list[str]) -> dict[str, Any]:
    """Operating points, calibration and protocol, as `Trained.facts` has them; the protocol without the machine that it ran on.

    Args:
        report: the content of report.json.
        findings: of the model.
    """
    protocol = report["protocol"]
    evaluation = protocol["evaluation"]
    rule = evaluation["settings"]["rule"]

    def of(kind: str, finding: str) -> dict[str, Any]:
        sets = evaluation[kind]
        found: dict[str, Any] = next((sets[name][finding] for name in (OWN_SET, *sets) if finding in sets.get(name, {})), {"reason": "not evaluated"})
        return found

    points, calibration = dict[str, Any](), dict[str, Any]()
    for finding in findings:
        point, refit = of("operating_points", finding), of("recalibration", finding)
        points[finding], calibration[finding] = {"reason": point.get("reason")}, {"reason": refit.get("reason")}
        if point.get("source"):
            points[finding] = {"rule": rule, **point["rules"][rule], "source": point["source"], "text_mined_target": point["text_mined_target"]}
        if refit.get("source"):
            calibration[finding] = {key: refit[key] for key in ("slope", "intercept", "source", "text_mined_target")}
    kept = {key: value for key, value in protocol.items() if key not in ("evaluation", "provenance")}
    return {"operating": {"rule": rule, "points": points}, "calibration": calibration, "protocol": kept | {"evaluation_sha256": evaluation["sha256"]}}


def _read_exported(folder: Path) -> Trained:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        facts = json.loads((folder / FACTS).read_bytes(), parse_constant=_refuse)
        content = (folder / WEIGHTS).read_bytes()
        weights = load(content)
        _require_facts(facts)
        is_whole = facts["weights_sha256"] == file_sha256(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise RunError(
            f"{folder}: {FACTS} or {WEIGHTS} is damaged ({(str(error).splitlines() or [type(error).__name__])[0]!r}); export the run again"
        ) from error
    if not is_whole:
        raise RunError(f"{folder}/{WEIGHTS} is not what was exported with {FACTS}: its sha256 differs; export the run again")
    return Trained(facts, weights, None, folder)


def _require_facts(facts: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError unless the facts of an exported folder are such as can be, and agree with each other."""
    from cxr.data.decode import FITS, WINDOWS
    from cxr.data.png import MAX_BYTES

    findings, image_size, store_size, network = (facts[key] for key in ("findings", "image_size", "store_size", "network"))
    if not findings or findings != network["findings"] or len(set(findings)) != len(findings):
        raise ValueError("findings are not the network's, each once")
    if not (
        type(image_size) is type(store_size) is int and 0 < image_size <= store_size and store_size**2 <= MAX_BYTES and image_size == network["image_size"]
    ):
        raise ValueError(f"image_size {image_size} and store_size {store_size} are not the network's")
    if facts["reading"].keys() != {"fit", "dicom_window"} or facts["reading"]["fit"] not in FITS or facts["reading"]["dicom_window"] not in WINDOWS:
        raise ValueError(f"reading is {facts['reading']}")
    if not (isinstance(facts["precision"], str) and isinstance(facts["checkpoint_sha256"], str) and isinstance(facts.get("protocol", {}), dict)):
        raise ValueError("precision, checkpoint_sha256 or protocol is of another kind")
    if not all(isinstance(network["model"][key], int | float) for key in ("drop_rate", "drop_path_rate")):  # looked at only when it predicts
        raise ValueError("a rate of the network is no number")
    _require_numbers(findings, facts)


def _require_numbers(findings: list[str], fixed: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError unless every threshold and recalibration is of a finding and a finite number."""
    for told, keys in ((fixed["operating"]["points"], ("threshold",)), (fixed["calibration"], ("slope", "intercept"))):
        for finding, values in told.items():
            numbers = [values[key] for key in keys] if keys[0] in values else []
            if finding not in findings or any(isinstance(number, bool) or not math.isfinite(number) for number in numbers):
                raise ValueError(f"{finding}: {values}")
            if not (numbers or "reason" in values):
                raise KeyError(f"{keys[0]} of {finding}")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


def write_bare(folder: Path, network: Mapping[str, Any], weights: "Mapping[str, torch.Tensor]", *, store_size: int) -> None:
    """An exported folder of a network that no run has trained, without thresholds, calibration, graph and card.

    Args:
        folder: that is there.
        network: what a Classifier is made of.
        weights: of its network, by name.
        store_size: side of a stored film in pixels.
    """
    from safetensors.torch import save

    (folder / WEIGHTS).write_bytes(save({name: value.contiguous() for name, value in weights.items()}))
    facts = {
        "package_version": cxr.__version__,
        "findings": network["findings"],
        "image_size": network["image_size"],
        "store_size": store_size,
        "reading": {"fit": "pad", "dicom_window": "voi"},
        "precision": "32-true",
        "operating": {"rule": None, "points": {}},
        "calibration": {},
        "checkpoint_sha256": "",
        "network": dict(network),
        "weights_sha256": file_sha256(folder / WEIGHTS),
    }
    (folder / FACTS).write_text(json.dumps(facts))
