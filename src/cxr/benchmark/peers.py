"""How others feed chest X-rays to a network: written as they write it, each a `Case` over the same films."""

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cxr.benchmark.command import missing
from cxr.benchmark.films import STORED
from cxr.benchmark.measure import Case

CROP, BATCH = 224, 64
IMAGENET_MEAN, IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
Found = tuple[list[Case], dict[str, str]]


class FileDataset(Dataset):
    """One file per film, made into a normalised float32 RGB tensor in the loader: the common CheXNet re-implementations.

    Args:
        paths: of the files.
        resized: whether a film is resized to the crop, from 1024 pixels; else a random crop is taken of it.
    """

    def __init__(self, paths: list[Path], *, resized: bool):
        self.paths, self.resized, self.rng = paths, resized, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        image = Image.open(self.paths[index]).convert("RGB")
        if self.resized:
            image = image.resize((CROP, CROP), Image.Resampling.BILINEAR)
        else:
            top, left = self.rng.integers(0, STORED - CROP + 1, 2)
            image = image.crop((left, top, left + CROP, top + CROP))
        pixels = (np.asarray(image, np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.zeros(14)


def run_through(loader: Any, n_films: int) -> Callable[[], int]:
    """Work that takes n_films out of a loader, in batches."""

    def work() -> int:
        taken = 0
        for batch in loader:
            first = batch
            while isinstance(first, dict | list | tuple):
                first = next(iter(first.values())) if isinstance(first, dict) else first[0]
            taken += len(first)
            if taken >= n_films:
                break
        return taken

    return work


def file_loaders(paths: list[Path], films: np.ndarray, folder: Path, size: float) -> Found:
    """CheXNet style on files of 1024, torchxrayvision's own data set on the same, and files of 256 pixels.

    Args:
        paths: of PNG films of 1024 x 1024, their names all different.
        films: (n, 256, 256) uint8, for the small files.
        folder: for what is written.
        size: fraction of the work.
    """
    cases, absent = [], {}
    n = max(2, int(24 * size))
    if reason := missing("PIL"):
        absent["CheXNet style, PNG of 1024"] = reason
    else:
        many = (paths * (n // len(paths) + 1))[:n]
        cases.append(Case("CheXNet style, PNG of 1024", "peer", run_through(DataLoader(FileDataset(many, resized=True), batch_size=n, shuffle=True), n)))
        for name, ending, settings in (("PNG of 256", "png", [cv2.IMWRITE_PNG_COMPRESSION, 6]), ("JPEG of 256", "jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])):
            small = []
            for i, film in enumerate(films):
                small.append(folder / f"small_{i}.{ending}")
                cv2.imwrite(str(small[-1]), film, settings)
            n_small = max(2, int(256 * size))
            many = (small * (n_small // len(small) + 1))[:n_small]
            loader = DataLoader(FileDataset(many, resized=False), batch_size=min(BATCH, n_small), shuffle=True)
            cases.append(Case(f"CheXNet style, {name}", "peer", run_through(loader, n_small)))
    if reason := missing("torchxrayvision"):
        absent["torchxrayvision, NIH_Dataset"] = reason
    else:
        cases.append(_torchxrayvision(paths, folder, max(2, int(12 * size))))
    return cases, absent


def _torchxrayvision(paths: list[Path], folder: Path, n: int) -> Case:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import torchxrayvision as xrv
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
    entries = folder / "torchxrayvision.csv"
    entries.write_text("\n".join([header, *(f"{path.name},No Finding,0,{i},50,F,PA" for i, path in enumerate(paths))]) + "\n")

    class Both:
        """Its documented pair of transforms, without torchvision's Compose."""

        steps = (xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(CROP))

        def __call__(self, image: np.ndarray) -> np.ndarray:
            for step in self.steps:
                image = step(image)
            return image

    with contextlib.redirect_stdout(io.StringIO()):
        films = xrv.datasets.NIH_Dataset(str(paths[0].parent), csvpath=str(entries), transform=Both(), unique_patients=False)

    def collate(samples: list[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(sample["img"]) for sample in samples])

    loader = DataLoader(films, batch_size=min(n, len(films)), shuffle=True, collate_fn=collate)
    return Case("torchxrayvision, NIH_Dataset", "peer", run_through(loader, min(n, len(films))))


def pixel_stores(films: np.ndarray, folder: Path, size: float) -> Found:
    """LitData and HF datasets holding the same stored pixels.

    Args:
        films: (n, 256, 256) uint8.
        folder, size: as in `file_loaders`.
    """
    cases, absent = [], {}
    n = max(BATCH, int(2048 * size))
    if reason := missing("litdata"):
        absent["LitData, raw"] = reason
    else:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from litdata import StreamingDataLoader, StreamingDataset
            from litdata.streaming.writer import BinaryWriter

            writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")
            for i in range(n):
                writer[i] = torch.from_numpy(films[i % len(films)])
            writer.done()
            writer.merge()
            loader = StreamingDataLoader(StreamingDataset(str(folder / "litdata")), batch_size=BATCH, num_workers=0)
        cases.append(Case("LitData, raw", "peer", run_through(loader, n)))
    n = max(BATCH, int(256 * size))
    if reason := missing("datasets"):
        absent["HF datasets"] = reason
    else:
        import datasets

        datasets.disable_progress_bars()
        features = datasets.Features({"image": datasets.Array2D((STORED, STORED), "uint8")})
        made = datasets.Dataset.from_dict({"image": [films[i % len(films)] for i in range(n)]}, features=features)
        made.save_to_disk(str(folder / "hf"))
        held = datasets.load_from_disk(str(folder / "hf")).with_format("torch")

        def work() -> int:
            return sum(len(held[start : start + BATCH]["image"]) for start in range(0, n, BATCH))

        cases.append(Case("HF datasets", "peer", work))
    return cases, absent
