"""A finished run's heat maps against the radiologists' boxes."""

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import cxr
from cxr.cohort.boxes import BOX_FILE, CORNERS, FILM_PIXELS, in_first_half, load_boxes
from cxr.cohort.findings import NIH_FINDINGS
from cxr.config import LocalizeConfig
from cxr.resume import file_sha256
from cxr.run import RunError
from cxr.run.provenance import git_commit, now
from cxr.run.reading import OpenRun, open_run
from cxr.run.study import check_coverage, prepare_store

if TYPE_CHECKING:
    from cxr.data.store import Store
    from cxr.explain.geometry import Geometry
    from cxr.explain.heatmaps import HeatMaps
    from cxr.report.localization import Shown, Traces

log = logging.getLogger(__name__)

FOLDER = "localization"


def localize(config: LocalizeConfig) -> None:
    """localization.json, its pages and figures, into localization/ of the run's folder.

    Raises:
        RunError: there is no such run, or no boxes, or none whose film is there; or the library of heat maps is not installed.
        LabelError: of the file of boxes.
        HeatMapError: no heat map can be made of the network.
    """
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        raise RunError("heat maps need pytorch_grad_cam, which is not installed: pip install -e '.[explain]' (in the project's folder)")
    run_dir = Path(config.run).absolute()
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    if (run_dir / "config.yaml").is_file() and not checkpoint.is_file():
        raise RunError(f"{checkpoint}: no such file. Heat maps are made with a run's checkpoint; an ensemble has none")
    opened = open_run(run_dir, root=config.root, expert_labels=config.expert_labels)  # counts the look at test films
    path = Path(opened.data.root).absolute() / BOX_FILE
    if not path.is_file():
        raise RunError(f"{path}: no such file. It comes with ChestX-ray14's label file (docs/data.md)")
    listed = load_boxes(path, opened.study.catalogue)
    store = prepare_store(opened.data, opened.study.catalogue, {name: source.other for name, source in opened.study.sources.items()})
    check_coverage(opened.data, opened.study.catalogue, store)
    boxes = listed[listed.image_id.isin(store.image_ids)].reset_index(drop=True)
    if boxes.empty:
        raise RunError(f"none of the {listed.image_id.nunique()} films with boxes is in the image store")
    boxes["row"] = pd.Index(store.image_ids).get_indexer(boxes.image_id)
    boxes["for_threshold"] = in_first_half(boxes.patient_id, config.seed)

    from cxr.explain.geometry import Geometry
    from cxr.report import localization, localization_page

    maps = _heat_maps(checkpoint, config)
    geometry = Geometry(FILM_PIXELS, FILM_PIXELS, int(store.meta["size"]), maps.image_size, opened.data.fit.value)
    boxes[CORNERS] = geometry.film_to_input(boxes[CORNERS].to_numpy())
    read = ", ".join(f"{name} ({cells} × {cells} cells)" for name, cells in maps.layers.items())
    log.info("Heat maps (%s of %s) for %d boxes on %d films", maps.method, read, len(boxes), boxes.row.nunique())
    results = localization.evaluate(boxes, _trace(boxes, store, maps, config), side=maps.image_size, n_draws=config.report.draws, seed=config.report.seed)
    content = {"protocol": _protocol(config, opened, path, checkpoint, maps, geometry), "n_listed": len(listed)} | results.content
    localization_page.write(run_dir / FOLDER, content, list(_overlays(results.shown, boxes, store, maps, geometry)))
    log.info(localization_page.summary(content))
    log.info("Localization: %s", run_dir / FOLDER / "localization.html")


def _heat_maps(checkpoint: Path, config: LocalizeConfig) -> "HeatMaps":
    import torch

    from cxr.explain.heatmaps import HeatMaps
    from cxr.model.classifier import load_classifier

    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise RunError("accelerator=gpu: torch sees no GPU here; accelerator=cpu goes without")
    classifier = load_classifier(checkpoint, may_compile=False)
    classifier.to("cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    return HeatMaps(classifier, method=config.method)


def _heat_of(boxes: pd.DataFrame, store: "Store", maps: "HeatMaps", batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the box, heat map) of every box; the films of a finding together, for they share a backward pass."""
    import torch

    for finding, group in boxes.groupby("finding", sort=False):
        for start in range(0, len(group), batch_size):
            part = group.iloc[start : start + batch_size]
            films = torch.from_numpy(store.images[part.row.to_numpy()])[:, None]
            yield from zip(part.index, maps.maps(films, [NIH_FINDINGS.index(str(finding))])[:, 0], strict=True)


def _trace(boxes: pd.DataFrame, store: "Store", maps: "HeatMaps", config: LocalizeConfig) -> "dict[str, Traces]":
    """What is left of every map: its peak and the boxes that it detects at each threshold; of the model's, and of maps that know nothing."""
    from cxr.report.localization import Traces, trace
    from cxr.stats.localization import blob

    side = maps.image_size
    middle = trace(blob(side / 2, side / 2, side))
    traces = {"model": [middle] * len(boxes), "centre": [middle] * len(boxes), "random": [middle] * len(boxes)}
    with tqdm(desc="heat maps", total=len(boxes), unit="box", disable=None) as bar:
        for k, heat in _heat_of(boxes, store, maps, config.batch_size):
            traces["model"][k] = trace(heat)
            box = boxes.loc[k]
            point = np.random.default_rng(_number(f"{config.seed}:{box.image_id}:{box.finding}")).uniform(0, side, 2)
            traces["random"][k] = trace(blob(point[0], point[1], side))
            bar.update()
    return {name: Traces(*map(np.stack, zip(*of_boxes, strict=True))) for name, of_boxes in traces.items()}


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _overlays(shown: "list[Shown]", boxes: pd.DataFrame, store: "Store", maps: "HeatMaps", geometry: "Geometry") -> Iterator[Any]:
    """The chosen boxes with their films, heat maps made again, in pixels of the stored film."""
    from cxr.explain.drawing import overlay
    from cxr.report.localization_page import Overlay

    heats = dict(_heat_of(boxes.loc[[one.index for one in shown]], store, maps, batch_size=1))
    on_store: Callable[[np.ndarray], np.ndarray] = lambda corners: corners + geometry.margin  # noqa: E731
    for one in shown:
        box = boxes.loc[one.index]
        picture = overlay(store.images[box.row], geometry.on_store(heats[one.index]))
        yield Overlay(one, str(box.image_id), picture, on_store(box[CORNERS].to_numpy(float)), on_store(one.detected), on_store(one.peak))


def _protocol(config: LocalizeConfig, opened: OpenRun, path: Path, checkpoint: Path, maps: "HeatMaps", geometry: "Geometry") -> dict[str, Any]:
    run = opened.report["protocol"]
    return {
        "data": run["data"],
        "model": run["model"],
        "image_size": maps.image_size,
        "store_size": geometry.store_size,
        "fit": geometry.fit,
        "heat_maps": {"method": maps.method, "cells_a_side": maps.layers},
        "boxes": {"file": path.name, "sha256": file_sha256(path)},
        "heat_thresholds": f"per finding, by the mean IoU of half of the patients (seed {config.seed}); overlaps are of the other half",
        "pointing_game": "the hottest pixel's centre within the box, without tolerance; all boxes, for no threshold is chosen",
        "intervals": f"95 %, by patient: proportions Wilson adjusted for clusters; mean IoU {config.report.draws} draws, seed {config.report.seed}",
        "labels": opened.study.catalogue.labels,
        "checkpoint_sha256": file_sha256(checkpoint),
        "config_sha256": run.get("config_sha256"),
        "package_version": cxr.__version__,
        "commit": git_commit(),
        "provenance": {"reported": now()},
    }
