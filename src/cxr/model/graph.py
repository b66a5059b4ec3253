"""A classifier as an ONNX graph: stored films in, scores out, everything between them inside."""

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cxr.model.classifier import Classifier

if TYPE_CHECKING:
    import onnxruntime

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUTS = "film", ("score", "logit")
# that tell of every node they fold
TALKERS = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")


class GraphError(ValueError):
    """The graph cannot be made, or gives other scores than the network."""


class _Scores(nn.Module):
    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, film: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.classifier(film)
        return torch.sigmoid(logits), logits


def write_graph(path: Path, classifier: Classifier, *, store_size: int) -> None:
    """Writes the graph: `film` (B, 1, store_size, store_size) uint8 to `score` and `logit` (B, F) float32, for any B.

    Args:
        path: of the file.
        classifier: on the processor, as it predicts.
        store_size: side of a stored film in pixels; the graph cuts the centre out.

    Raises:
        GraphError: a package is missing, or torch cannot write this network as a graph.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise GraphError(f"ONNX needs {', '.join(missing)}, which is not installed: pip install -e '.[export]' (in the project's folder)")
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    films = torch.zeros((2, 1, store_size, store_size), dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Scores(classifier).eval(),
                (films,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        program.save(str(path))
    except Exception as error:  # whatever one of its many stages says of a network
        raise GraphError(f"torch cannot write this network as an ONNX graph: {(str(error).splitlines() or [type(error).__name__])[0][:300]}") from error


def open_graph(path: Path, *, n_threads: int) -> "onnxruntime.InferenceSession":
    """A graph on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = n_threads, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def largest_difference(session: "onnxruntime.InferenceSession", classifier: Classifier, batches: Sequence[np.ndarray]) -> float:
    """Between the graph's scores and the network's, over films.

    Args:
        batches: each (B, store_size, store_size) uint8.
    """
    differences = [0.0]
    for films in batches:
        with torch.inference_mode():
            expected = torch.sigmoid(classifier(torch.from_numpy(films)[:, None])).numpy()
        differences.append(float(np.abs(session.run(OUTPUTS[:1], {INPUT: films[:, None]})[0] - expected).max()))
    return max(differences)
