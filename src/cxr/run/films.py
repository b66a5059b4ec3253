"""What a report takes from the films themselves, on request: the network's features, and the gallery of errors with heat maps. Needs the store and torch."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.report import gallery
from cxr.report.features import FILE, read_features, write_features
from cxr.report.mapping import logits_of
from cxr.report.predictions import Predictions
from cxr.report.reference import ReferenceSet
from cxr.resume import file_sha256
from cxr.run import RunError
from cxr.run.study import rows_in_store

if TYPE_CHECKING:
    from cxr.data.store import Store
    from cxr.model.classifier import Classifier
    from cxr.report.protocol import Frozen

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoints/best.ckpt"
BATCH, HEAT_BATCH = 64, 16  # films; a heat map keeps what its backward pass needs


def kept_features(run_dir: Path, predictions: Predictions) -> pd.DataFrame | None:
    """(N, D) features of the network that made the predictions, indexed by image_id; None where they were not kept."""
    kept = read_features(run_dir / FILE, predictions.metadata["checkpoint_sha256"])
    return kept if kept is not None and predictions.table.image_id.isin(kept.index).all() else None


def make_features(run_dir: Path, predictions: Predictions, store_folder: Path, *, accelerator: str) -> pd.DataFrame:
    """Writes features.npz of all predicted films, and returns them.

    Args:
        run_dir: with the checkpoint.
        predictions: of that checkpoint.
        store_folder: of the films.
        accelerator: auto, cpu or gpu.

    Raises:
        RunError: the checkpoint, or a film, is not there.
    """
    network = _open(run_dir, predictions, store_folder, accelerator, "report.shortcuts")
    films, rows = _all_rows(network.store, predictions.table)
    log.info("Features of %d films", len(rows))
    features, image_ids = features_of(network.classifier, network.store, rows), films.image_id.to_numpy()
    write_features(run_dir / FILE, image_ids, features, checkpoint_sha256=predictions.metadata["checkpoint_sha256"])
    return pd.DataFrame(features, index=pd.Index(image_ids, name="image_id"))


def features_of(classifier: "Classifier", store: "Store", rows: np.ndarray) -> np.ndarray:
    """(N, D) float32: what the last layer is given of each of the store's rows, on the classifier's device, its films as they are."""
    import torch

    from cxr.data.dataset import EvalLoader, FilmDataset

    loader = EvalLoader(FilmDataset(store, rows, np.empty((len(rows), 0), np.float32), image_size=classifier.hparams["image_size"]), batch_size=BATCH)
    with torch.inference_mode():
        batches = [
            classifier.features(batch["image"].to(classifier.device)).cpu().numpy()
            for batch in tqdm(loader, "features", unit="batch", disable=None, leave=False)
        ]
    return np.concatenate(batches)


def make_gallery(
    run_dir: Path,
    report: Mapping[str, Any],
    predictions: Predictions,
    frozen: "Frozen",
    references: Mapping[str, ReferenceSet],
    scores: Mapping[str, pd.DataFrame],
    store_folder: Path,
    *,
    n: int,
    accelerator: str,
) -> "Gallery | None":
    """The page of errors; None where nothing was labelled by radiologists, or the model makes no error.

    Args:
        run_dir: with the checkpoint.
        report: the content of report.json.
        predictions, frozen, references, scores: what it was made of.
        store_folder: of the films.
        n: misses, and false alarms, of each finding at most.
        accelerator: auto, cpu or gpu.

    Raises:
        RunError: the checkpoint, or a film, is not there.
    """
    errors = gallery.confident_errors(report["reference_sets"], scores, references, n=n)
    if not errors:
        log.warning("report.gallery: no film that radiologists labelled is there and scored wrongly, so there is no gallery")
        return None
    network = _open(run_dir, predictions, store_folder, accelerator, "report.gallery")
    seen = [_leading(frozen, predictions, references[of.name], of.finding, of.table["image_id"]) for of in errors]
    wanted = pd.DataFrame(
        [(image_id, finding) for of, findings in zip(errors, seen, strict=True) for image_id, finding in zip(of.table["image_id"], findings, strict=True)],
        columns=["image_id", "finding"],
    )
    films, method = _with_heat(network, wanted, predictions.findings)
    shown = iter(films)
    pictures = [[next(shown) for _ in of.table["image_id"]] for of in errors]
    protocol = report["protocol"]
    made = gallery.page(errors, pictures, seen, model=str(protocol["model"]), data=str(protocol["data"]))
    return Gallery(made, {"n_films": int(wanted.image_id.nunique()), "n_shown": len(wanted), "heat_maps": method})


class Gallery(NamedTuple):
    """gallery.html, and what report.json says of it."""

    page: bytes
    told: dict[str, Any]


class _Network(NamedTuple):
    classifier: "Classifier"
    store: "Store"
    side: int


def require_films(run_dir: Path, predictions: Predictions, store_folder: Path, key: str) -> "Store":
    """The store, where it and the checkpoint that made the predictions are there; RunError, which names the key that asks for them, where not."""
    from cxr.data.store import StoreError, open_store

    checkpoint = run_dir / CHECKPOINT
    if not checkpoint.is_file() or file_sha256(checkpoint) != predictions.metadata["checkpoint_sha256"]:
        raise RunError(f"{key}=true: {checkpoint} is not there, or is not what made the predictions; {key}=false goes without")
    try:
        return open_store(store_folder)
    except StoreError as error:
        raise RunError(
            f"{key}=true needs the films, and {error}: scripts/prepare.py makes it, store_dir=... says where it is; {key}=false goes without"
        ) from error


def _open(run_dir: Path, predictions: Predictions, store_folder: Path, accelerator: str, key: str) -> _Network:
    store = require_films(run_dir, predictions, store_folder, key)
    import torch

    from cxr.model.classifier import load_classifier

    classifier = load_classifier(run_dir / CHECKPOINT, may_compile=False).eval()
    classifier.to("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    return _Network(classifier, store, classifier.hparams["image_size"])


def _all_rows(store: "Store", films: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    there, rows = rows_in_store(store, films)
    if len(there) < len(films):
        raise RunError(f"{len(films) - len(there)} predicted films are not in the image store: it is another one than the run's")
    return there, rows


def _leading(frozen: "Frozen", predictions: Predictions, reference: ReferenceSet, finding: str, image_ids: "pd.Series[str]") -> list[str]:
    """The model's finding behind each film's score: itself, or that member of a union that speaks loudest."""
    mapping, logits = frozen.mapping, logits_of(predictions, reference).loc[image_ids.tolist()]
    members = [finding] if finding in logits else mapping.members[finding]
    single = np.stack([mapping.union(logits, [member], "max") for member in members], axis=1)
    return [members[k] for k in single.argmax(axis=1)]


def _with_heat(network: _Network, wanted: pd.DataFrame, findings: list[str]) -> tuple[list[gallery.Pictures], str | None]:
    """(film, film under its heat map) of each row of `wanted`: (side, side) and (side, side, 3) uint8, as the network sees it; and by which method, or None."""
    import torch

    from cxr.explain.drawing import overlay
    from cxr.explain.heatmaps import HeatMapError, HeatMaps

    _, rows = _all_rows(network.store, wanted)
    at = (network.store.images.shape[1] - network.side) // 2
    films = network.store.images[rows, at : at + network.side, at : at + network.side]
    try:
        heat, explained = np.empty(films.shape, np.float32), HeatMaps(network.classifier, method="auto")
    except HeatMapError as error:  # nothing for which a report would not be written
        log.warning("The gallery has no heat maps: %s", error)
        return [(film, None) for film in films], None
    columns = np.array([findings.index(finding) for finding in wanted["finding"]])
    with tqdm(total=len(rows), desc="heat maps", unit="film", disable=None, leave=False) as bar:
        for column in np.unique(columns):  # a backward pass is of one finding
            of_column = np.flatnonzero(columns == column)
            for batch in np.split(of_column, range(HEAT_BATCH, len(of_column), HEAT_BATCH)):
                images = torch.from_numpy(films[batch][:, None]).to(network.classifier.device)
                heat[batch] = explained.maps(images, [int(column)])[:, 0]
                bar.update(len(batch))
    return [(film, overlay(film, hot)) for film, hot in zip(films, heat, strict=True)], explained.method
