"""A trained model as a folder that needs no run: weights, an ONNX graph, facts, and a model card."""

import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr.atomic import sync, write_whole
from cxr.config import ExportConfig
from cxr.resume import file_sha256
from cxr.run import RunError
from cxr.run.checking import drawn_films
from cxr.run.reporting import read_config
from cxr.run.study import store_folder
from cxr.run.trained import FACTS, WEIGHTS, Trained, read_trained

if TYPE_CHECKING:
    from cxr.model.classifier import Classifier

log = logging.getLogger(__name__)

GRAPH, CARD = "model.onnx", "README.md"
BATCH_SIZES = (1, 3, 8)
# between a score of the graph and one of the network
TOLERANCE = 1e-5
ROUNDS = 7


def export(config: ExportConfig) -> None:
    """Exports a run into a new folder, or fails and leaves nothing."""
    output = Path(config.output).absolute()
    if output.exists():
        raise RunError(f"output={config.output}: that is there already; name a new folder")
    trained = read_trained(Path(config.run))
    if trained.folder != Path(config.run).absolute() and (trained.folder / FACTS).is_file():
        raise RunError(f"run={config.run}: that was exported already")
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_model(partial, trained)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(output.parent)
    log.info("Exported: %s", output)


def write_model(folder: Path, trained: Trained) -> None:
    """The four files.

    Args:
        folder: that is empty.
        trained: the model, of a run.

    Raises:
        GraphError: no ONNX graph can be made of it.
        RunError: the graph's scores are not the network's.
    """
    import torch
    from safetensors.torch import save

    from cxr.model.graph import largest_difference, open_graph, write_graph
    from cxr.report.model_card import model_card

    classifier, facts = trained.classifier(), trained.facts
    write_whole(folder / WEIGHTS, save({name: value.contiguous() for name, value in trained.weights.items()}))
    log.info("Writing the ONNX graph")
    write_graph(folder / GRAPH, classifier, store_size=facts["store_size"])

    n_threads = torch.get_num_threads()
    session, films = open_graph(folder / GRAPH, n_threads=n_threads), _films(trained)
    batches = [part for of in films.values() for size in BATCH_SIZES for part in [of[:size]]]
    difference = largest_difference(session, classifier, batches)
    told = f"{GRAPH}: scores differ from torch's by {difference:.1e} at most ({' and '.join(films)}, batches of {', '.join(map(str, BATCH_SIZES))})"
    if not difference <= TOLERANCE:
        raise RunError(f"{told}, which is more than {TOLERANCE:g}: nothing is exported")
    log.info(told)
    speed = {"n_threads": n_threads, "batch_size": BATCH_SIZES[-1], **_speed(session, classifier, films["drawn"][: BATCH_SIZES[-1]])}
    log.info("%s on %d threads: %.0f films/s; torch %.0f films/s", GRAPH, n_threads, speed["onnx"], speed["torch"])

    with torch.inference_mode():
        reference = classifier(torch.from_numpy(films["drawn"])[:, None]).numpy()
    graph = {"max_difference": difference, "tolerance": TOLERANCE, "sha256": file_sha256(folder / GRAPH)}
    facts = facts | {"weights_sha256": file_sha256(folder / WEIGHTS), "onnx": graph, "reference_logits": reference.tolist()}
    write_whole(folder / FACTS, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
    n_weights = sum(parameter.numel() for parameter in classifier.parameters())
    write_whole(folder / CARD, model_card(facts, trained.report, n_weights=n_weights, speed=speed).encode())


def _films(trained: Trained) -> dict[str, np.ndarray]:
    """Drawn films, and where the run's image store is still there, films of its own: (8, store_size, store_size) uint8."""
    from cxr.data.store import StoreError, open_store

    n, size = max(BATCH_SIZES), trained.facts["store_size"]
    films = {"drawn": drawn_films(n, size)}
    try:
        store = open_store(store_folder(read_config(trained.folder, root=None, expert_labels=None).data))
    except StoreError:
        return films
    if store.meta["size"] == size:
        films["the run's own"] = np.array(store.images[:n])
    return films


def _speed(session: Any, classifier: "Classifier", films: np.ndarray) -> dict[str, float]:
    """Films per second of both, in turn: the median of some rounds after one that does not count."""
    import torch

    from cxr.model.graph import INPUT

    with torch.inference_mode():
        batch: Any = torch.from_numpy(films)[:, None]
        runs: dict[str, Callable[[], Any]] = {"torch": lambda: classifier(batch), "onnx": lambda: session.run(None, {INPUT: batch.numpy()})}
        seconds = dict[str, list[float]]({name: [] for name in runs})
        for _ in range(ROUNDS + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return {name: len(films) / statistics.median(taken[1:]) for name, taken in seconds.items()}
