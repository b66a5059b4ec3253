"""Prediction from files to the finished table, against the network alone on a batch that lies in memory."""

import tempfile
from itertools import cycle, islice
from pathlib import Path

import torch

from cxr.benchmark.command import BenchmarkError, Settings
from cxr.benchmark.films import film_paths
from cxr.benchmark.measure import Case, Contest, hold
from cxr.report.film_table import FilmTable
from cxr.run.checking import NETWORK
from cxr.run.predicting import Predictor, predicted
from cxr.run.trained import make_classifier, write_bare

N, BATCH = 512, 64
DEFAULT = "densenet121@224,tf_efficientnet_lite0@224"


def run_stage(settings: Settings) -> list[dict]:
    n = max(2, int(N * settings.size))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = film_paths(settings, folder, n)
        films = {f"{i:06d}_{path.name}": path for i, path in enumerate(islice(cycle(paths), n))}
        return [hold(_contest(model, films, folder, settings.device), settings.rounds) for model in (settings.models or DEFAULT).split(",")]


def _contest(model: str, films: dict[str, Path], folder: Path, device: str) -> Contest:
    name, _, pixels = model.partition("@")
    if not pixels.isdigit():
        raise BenchmarkError(f"models={model}: name@pixels, as in {DEFAULT}")
    torch.manual_seed(0)
    network = {**NETWORK, "image_size": int(pixels), "model": {**NETWORK["model"], "name": name}}
    write_bare(folder, network, make_classifier(network).net.state_dict(), store_size=round(int(pixels) * 8 / 7))
    predictor = Predictor(folder, accelerator={"cuda": "gpu"}.get(device, device))
    batch = torch.randint(0, 256, (min(BATCH, len(films)), 1, predictor.store_size, predictor.store_size), dtype=torch.uint8, device=predictor.device)
    output = folder / "films.csv"

    def whole() -> int:
        output.unlink(missing_ok=True)
        with FilmTable(output, {}) as table:
            for part in predicted(predictor, films, batch_size=BATCH):
                table.add(part)
            table.finish()
        return len(films)

    def bare() -> int:
        n_batches = -(-len(films) // len(batch))
        for _ in range(n_batches):
            with torch.inference_mode():
                predictor.model(batch).cpu()
        return n_batches * len(batch)

    cases = [Case("cxr, files to the table", "ours", whole), Case("the network alone, on a batch in memory", "limit", bare)]
    return Contest(f"Prediction, {name} at {pixels} pixels", "films", cases, [(cases[0].name, cases[1].name)])
