"""The kinds of file that only a stage reads, for scripts/fuzz.py: `cxr.trials.fuzz_readers` has the others, and knows of no stage."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cxr.cohort.findings import NIH_FINDINGS
from cxr.config import Config, DownloadConfig, from_plain
from cxr.resume import CONFIG, REPORT, begin
from cxr.trials.fuzz_readers import Reader, WrongError, plain_values

if TYPE_CHECKING:
    from cxr.run.trained import Trained

RULE = "youden"
POINT = {"source": "nih_val", "text_mined_target": True}
REFIT = {"slope": 0.9, "intercept": -1.25, "source": "nih_val", "text_mined_target": True}


def readers(folder: Path) -> list[Reader]:
    """All of them.

    Args:
        folder: for the sound files.
    """
    (folder / "exported").mkdir()
    return [_exported(folder / "exported"), _finished(folder / "finished", folder / "exported"), _list_of_films()]


def _exported(folder: Path) -> Reader:
    """What scripts/export.py writes, but for the graph and the card, which are not read again; with the model made, and asked about a film."""
    from cxr.run.checking import IMAGE_SIZE, STORE_SIZE, drawn_films, write_reference_model
    from cxr.run.predicting import Predictor
    from cxr.run.trained import FACTS, WEIGHTS

    write_reference_model(folder)
    facts = json.loads((folder / FACTS).read_bytes())
    points = {finding: {"rule": RULE, "threshold": 0.1 * k - 0.5, "target": None, **POINT} for k, finding in enumerate(NIH_FINDINGS)}
    facts |= {"operating": {"rule": RULE, "points": points | {"Hernia": {"reason": "too few"}}}, "calibration": dict.fromkeys(NIH_FINDINGS, REFIT)}
    facts |= {"protocol": {"model": "test_resnet", "data": "mini", "seed": 0}}
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    files = {name: (folder / name).read_bytes() for name in (FACTS, WEIGHTS)}
    film = drawn_films(1, STORE_SIZE)

    def read(at: Path) -> tuple["Trained", dict[str, Any]]:
        predictor = Predictor(at, accelerator="cpu")
        return predictor.trained, predictor.columns(predictor.logits(film).numpy())

    def check(file: str, content: bytes, read: tuple["Trained", dict[str, Any]]) -> None:
        """The facts are what the file says, and what was predicted is by them."""
        trained, columns = read
        told, network = json.loads((files | {file: content})[FACTS]), trained.facts["network"]
        if trained.facts != told or told["findings"] != network["findings"] or told["image_size"] != network["image_size"]:
            raise WrongError("other facts than the file tells")
        if told["image_size"] != IMAGE_SIZE or told["store_size"] < IMAGE_SIZE or len(set(told["findings"])) != len(told["findings"]):
            raise WrongError("a network that these weights are not of")
        for finding in told["findings"]:
            logit, point, refit = (float(columns[f"logit_{finding}"][0]), told["operating"]["points"].get(finding, {}), told["calibration"].get(finding, {}))
            if ("threshold" in point) != (f"call_{finding}" in columns) or ("slope" in refit) != (f"probability_{finding}" in columns):
                raise WrongError(f"{finding} was called or calibrated, and the file says nothing of it, or the other way round")
            if "threshold" in point and int(columns[f"call_{finding}"][0]) != (logit >= point["threshold"]):
                raise WrongError(f"{finding} was called by another threshold")
            if "slope" in refit and abs(columns[f"probability_{finding}"][0] - 1 / (1 + math.exp(-refit["slope"] * logit - refit["intercept"]))) > 1e-5:
                raise WrongError(f"{finding} has a probability of another calibration")

    return Reader("exported model", files, read, check)


def _finished(folder: Path, exported: Path) -> Reader:
    """A finished run's configuration and report, beside a checkpoint that is sound."""
    import torch
    from safetensors.torch import load

    from cxr.model.checkpoint import BEST
    from cxr.run.trained import FACTS, WEIGHTS, read_trained

    network = json.loads((exported / FACTS).read_bytes())["network"]
    weights = load((exported / WEIGHTS).read_bytes())
    folder.mkdir()
    config = {"data": {"name": "mini", "root": "mini"}, "model": {"name": "test_resnet"}, "loss": {"name": "focal"}, "optim": {"name": "adamw"}}
    begin(folder, plain_values(from_plain(Config, config)), choices={}, commit=None)
    points = {finding: {**POINT, "rules": {RULE: {"threshold": 0.1 * k, "target": None}}} for k, finding in enumerate(NIH_FINDINGS)}
    evaluation = {"sha256": "ab", "settings": {"rule": RULE}, "operating_points": {"nih_test": points}}
    evaluation["recalibration"] = {"nih_test": dict.fromkeys(NIH_FINDINGS, REFIT)}
    report = {"protocol": {"seed": 0, "model": "test_resnet", "data": "mini", "evaluation": evaluation, "provenance": {}}, "reference_sets": {}}
    files = {CONFIG: (folder / CONFIG).read_bytes(), REPORT: json.dumps(report, indent=1).encode()}
    checkpoint = {"state_dict": {f"net.{name}": value for name, value in weights.items()}, "hyper_parameters": network}

    def read(at: Path) -> "Trained":
        (at / "checkpoints").mkdir()
        torch.save(checkpoint, at / "checkpoints" / BEST)
        return read_trained(at)

    def check(file: str, content: bytes, trained: "Trained") -> None:
        texts = files | {file: content}
        told, plain = json.loads(texts[REPORT])["protocol"], yaml.safe_load(texts[CONFIG])
        if trained.facts["precision"] != plain["trainer"]["precision"] or trained.facts["reading"]["fit"] != plain["data"].get("fit", "pad"):
            raise WrongError("another configuration than the file's")
        for finding in NIH_FINDINGS:
            point = told["evaluation"]["operating_points"].get("nih_test", {}).get(finding, {})
            threshold = point["rules"][told["evaluation"]["settings"]["rule"]]["threshold"] if point.get("source") else None
            if trained.facts["operating"]["points"][finding].get("threshold") != threshold:
                raise WrongError(f"another threshold of {finding} than the report's")

    return Reader("finished run", files, read, check)


def _list_of_films() -> Reader:
    """Of films to fetch from a server: NIH's names, or UIDs."""
    from cxr.run.downloading import select

    files = {"films.txt": "".join(f"{k:08d}_000.png\n1.2.840.{k}\n" for k in range(1, 40)).encode()}

    def read(at: Path) -> list[str]:
        return select(replace(DownloadConfig(source="dicomweb"), images=str(at / "films.txt")))

    def check(file: str, content: bytes, names: list[str]) -> None:
        if names != list(dict.fromkeys(content.decode("utf-8-sig").split())) or not names:
            raise WrongError("other films than the list names, or none at all")

    return Reader("list of films", files, read, check)
