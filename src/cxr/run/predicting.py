"""Films that nobody has labelled: files in, a table out; or one film, for whoever shows it."""

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from glob import glob, has_magic
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm import tqdm

import cxr
from cxr.config import PredictConfig
from cxr.run import RunError
from cxr.run.trained import Trained, read_trained

if TYPE_CHECKING:
    import torch

    from cxr.data.png import DecodeError
    from cxr.data.store import Film

log = logging.getLogger(__name__)

# what a folder is searched for
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
# films of a part: what a kill costs at most
PART = 512
SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class Told:
    """What a model says of one finding on one film.

    Attributes:
        finding: its name.
        logit: float32.
        score: sigmoid of the logit; it ranks films.
        probability: by the recalibration that validation films gave; None where they could not carry one.
        operating: of the frozen operating point: rule, threshold (of the logit), target, source, text_mined_target; None where there is none.
        call: whether the logit reaches the threshold; None without one.
        heat: (image_size, image_size) float32 in [0, 1], where it was asked for.
    """

    finding: str
    logit: float
    score: float
    probability: float | None
    operating: Mapping[str, Any] | None
    call: bool | None
    heat: np.ndarray | None = None


class Predictor:
    """A trained model, ready to predict. Films go through what made the image store of its training, by the rules of its run.

    Args:
        checkpoint: a run folder, its checkpoints/best.ckpt, or an exported folder.
        accelerator: "auto", "cpu" or "gpu". On a GPU it computes in the precision of its training, on a processor in float32.

    Attributes:
        trained: what was read from there.
        findings: that it predicts, in the order of its logits.
        operating: finding -> its frozen operating point, of those that have one.
        calibration: finding -> {slope, intercept, source, text_mined_target}, of those that have one.

    Raises:
        RunError: no trained model is there, or no GPU.
    """

    def __init__(self, checkpoint: Path | str, *, accelerator: str = "auto"):
        import torch

        from cxr.data.decode import Reading

        self.trained: Trained = read_trained(Path(checkpoint))
        facts = self.trained.facts
        self.findings: list[str] = facts["findings"]
        self.operating = {finding: point for finding, point in facts["operating"]["points"].items() if "threshold" in point}
        self.calibration = {finding: refit for finding, refit in facts["calibration"].items() if "slope" in refit}
        self.reading, self.store_size, self.image_size = Reading(**facts["reading"]), facts["store_size"], facts["image_size"]
        if accelerator == "gpu" and not torch.cuda.is_available():
            raise RunError("accelerator=gpu: torch finds no GPU here")
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        self.model = self.trained.classifier().to(self.device)
        self._heat_maps: Any = None

    def read(self, path: Path) -> np.ndarray:
        """(store_size, store_size) uint8, as the image store would hold it; DecodeError, with the reason, if it cannot be read."""
        from cxr.data.decode import decode

        return decode(path, self.store_size, self.reading)

    def logits(self, films: np.ndarray) -> "torch.Tensor":
        """(B, store_size, store_size) uint8 to (B, F) float32, on the device."""
        import torch

        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.trained.facts["precision"])
        with torch.inference_mode(), torch.autocast("cuda", half) if half and self.device.type == "cuda" else nullcontext():
            logits: torch.Tensor = self.model(torch.from_numpy(films)[:, None].to(self.device))
        return logits

    def heat_maps(self, films: np.ndarray, findings: Sequence[str]) -> np.ndarray:
        """(B, store_size, store_size) uint8 to (B, len(findings), image_size, image_size) float32 in [0, 1], on the centre that the network sees.

        Raises:
            RunError: the package that makes them is not installed.
            HeatMapError: no heat map can be made of this network.
        """
        import torch

        if find_spec("pytorch_grad_cam") is None:
            raise RunError("heat maps need grad-cam, which is not installed: pip install -e '.[explain]' (in the project's folder)")
        from cxr.explain.heatmaps import HeatMaps

        self._heat_maps = self._heat_maps or HeatMaps(self.model)
        columns = [self.findings.index(finding) for finding in findings]
        maps: np.ndarray = self._heat_maps.maps(torch.from_numpy(films)[:, None].to(self.device), columns)
        return maps

    def centre(self, film: np.ndarray) -> np.ndarray:
        """(store_size, store_size) to the (image_size, image_size) that the network sees."""
        at = (self.store_size - self.image_size) // 2
        return film[at : at + self.image_size, at : at + self.image_size]

    def columns(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """What a table says: logit_, score_ and, where there is one, probability_ and call_ of every finding.

        Args:
            logits: (N, F) float32.
        """
        columns = dict[str, np.ndarray]()
        for finding, values in zip(self.findings, logits.T.astype(np.float64), strict=True):
            columns[f"logit_{finding}"], columns[f"score_{finding}"] = values.astype(np.float32), expit(values).astype(np.float32)
            if refit := self.calibration.get(finding):
                columns[f"probability_{finding}"] = expit(refit["slope"] * values + refit["intercept"]).astype(np.float32)
            if point := self.operating.get(finding):
                columns[f"call_{finding}"] = (values >= point["threshold"]).astype(np.int8)
        return columns

    def predict(self, path: Path | str, *, heat_maps: Sequence[str] = ()) -> list[Told]:
        """One film.

        Args:
            path: its file.
            heat_maps: findings whose heat map is wanted.

        Returns:
            What the model says of every finding, in the order of `findings`.

        Raises:
            DecodeError: it cannot be read; the message is the reason.
            MissingPackageError: it is DICOM, and what reads it is not installed.
        """
        film = self.read(Path(path))[None]
        logits = self.logits(film).cpu().numpy()
        heat = dict(zip(heat_maps, self.heat_maps(film, heat_maps)[0], strict=True)) if heat_maps else {}
        told = {name: values[0] for name, values in self.columns(logits).items()}

        def one(finding: str) -> Told:
            probability, call = told.get(f"probability_{finding}"), told.get(f"call_{finding}")
            return Told(
                finding,
                logit=float(told[f"logit_{finding}"]),
                score=float(told[f"score_{finding}"]),
                probability=None if probability is None else float(probability),
                operating=self.operating.get(finding),
                call=None if call is None else bool(call),
                heat=heat.get(finding),
            )

        return [one(finding) for finding in self.findings]


# --- many films -------------------------------------------------------------------------------------------------------------------------------------


def find_films(images: str | Sequence[str], *, without: Path | None = None) -> dict[str, Path]:
    """The films that a user names.

    Args:
        images: files, folders (searched with all folders in them for SUFFIXES) and patterns, one or several.
        without: a folder that is passed over.

    Returns:
        image_id -> absolute path, sorted by path. The id is the file's name; where two films share one, every id is the path below the folder that all
        have in common.

    Raises:
        RunError: nothing is there.
    """
    found = set[Path]()
    for given in [images] if isinstance(images, str) else images:
        path = Path(given).expanduser()
        if path.is_dir():
            films: Iterable[Path] = _films_below(path)
        elif path.exists() or not has_magic(str(path)):
            films = [path] if path.is_file() else []
        else:
            films = [film for film in map(Path, glob(str(path), recursive=True)) if film.is_file()]
        films = [film for film in map(Path, map(os.path.abspath, films)) if without not in film.parents]
        found.update(films)
        if not films:
            kinds = f"no film ({', '.join(SUFFIXES)}) in this folder" if path.is_dir() else "no such file"
            raise RunError(f"images={given}: {kinds}")
    paths = sorted(found)
    if len({path.name for path in paths}) == len(paths):
        return {_text(path.name): path for path in paths}
    common = Path(os.path.commonpath(paths))
    log.info("Some films share a file name: image_id is the path below %s", common)
    return {_text(path.relative_to(common).as_posix()): path for path in paths}


def _films_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise error  # a folder that cannot be read is not an empty one

    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]


def predict(config: PredictConfig) -> None:
    """Predicts films into a table, or holds an installation against what is known."""
    from cxr.report.film_table import FilmTable, beside, require_output

    if config.check:
        from cxr.run.checking import check

        check(config.checkpoint)
        return
    if not config.checkpoint or not config.images:
        raise RunError("name a trained model and films: checkpoint=<run folder> images=<film, folder or pattern>")
    output = Path(config.output).absolute()
    require_output(output)
    overlays = beside(output, "heat_maps")
    films = find_films(config.images, without=overlays)
    predictor = Predictor(config.checkpoint, accelerator=config.accelerator)
    log.info("%d films, %s", len(films), in_words(predictor))
    if config.heat_maps:  # or says now why it makes none
        predictor.heat_maps(np.zeros((1, predictor.store_size, predictor.store_size), np.uint8), predictor.findings[:1])
    facts = predictor.trained.facts
    identity = {
        "checkpoint_sha256": facts["checkpoint_sha256"],
        "films_sha256": _films_sha256(films),
        "reading": predictor.reading.rule(films.values()),
        "operating": predictor.operating,
        "calibration": predictor.calibration,
        "heat_maps": config.heat_maps,
        "batch_size": config.batch_size,
        "device": predictor.device.type,
        "package_version": cxr.__version__,
    }
    with FilmTable(output, identity) as table:
        if table.is_finished:
            log.info("This prediction is finished: %s", output)
            return
        if table.n_parts:
            log.info("Going on after %d films", min(len(films), table.n_parts * PART))
        for part in predicted(predictor, films, skip=table.n_parts, batch_size=config.batch_size, heat_maps=overlays if config.heat_maps else None):
            table.add(part)
        counts = table.finish()
    if counts["n_quarantined"]:
        log.warning("%d of %d films could not be read: %s", counts["n_quarantined"], len(films), beside(output, "quarantine.csv"))
    log.info("%d films: %s", counts["n_films"], output)


def in_words(predictor: Predictor) -> str:
    """What a model can say beside scores, and on whose word."""
    if not predictor.operating and not predictor.calibration:
        return "scores only: this model has no report, or its validation films were too few for operating points and calibration"
    of = [*predictor.operating.values(), *predictor.calibration.values()]
    mined = ", whose labels are text-mined" if any(each["text_mined_target"] for each in of) else ""
    sources, n = ", ".join(sorted({each["source"] for each in of})), len(predictor.findings)
    return f"calls for {len(predictor.operating)} and probabilities for {len(predictor.calibration)} of {n} findings, as fixed on {sources}{mined}"


def _films_sha256(films: Mapping[str, Path]) -> str:
    """Of names, places, sizes and times of change."""
    digest = hashlib.sha256()
    for image_id, path in films.items():
        try:
            status = path.stat()
            told = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            told = "gone"
        digest.update(f"{image_id}\n{path}\n{told}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def predicted(predictor: Predictor, films: Mapping[str, Path], *, batch_size: int, skip: int = 0, heat_maps: Path | None = None) -> Iterator[pd.DataFrame]:
    """Films in parts of PART, as `cxr.report.film_table` takes them. Files are read by threads while the network computes.

    Args:
        predictor: the model.
        films: image_id -> file.
        batch_size: films at a time; no batch reaches over the end of a part.
        skip: parts that are not wanted again.
        heat_maps: folder for overlays, for each finding that a film is called with, or without operating points the finding that scores highest.

    Raises:
        RunError: a logit is no finite number.
        MissingPackageError: a film is DICOM, and what reads it is not installed.
    """
    from cxr.data.decode import is_dicom
    from cxr.data.store import Film, decode_in_order
    from cxr.dicom import load

    todo = [Film(image_id, path) for image_id, path in list(films.items())[skip * PART :]]
    if any(is_dicom(film.source) for film in todo if isinstance(film.source, Path)):
        load()  # or says what is missing, before a film is read
    n_threads = os.cpu_count() or 1
    decoded = decode_in_order(todo, predictor.store_size, predictor.reading, n_threads=n_threads, ahead=2 * batch_size)
    said, done = time.monotonic(), len(films) - len(todo)
    with tqdm(desc="predicting", unit="img", total=len(films), initial=done, disable=None) as bar:
        for start in range(0, len(todo), PART):
            rows, left = list[pd.DataFrame](), min(PART, len(todo) - start)
            while left:
                batch = list(islice(decoded, min(batch_size, left)))
                rows.append(_batch(predictor, batch, heat_maps))
                left, done = left - len(batch), done + len(batch)
                bar.update(len(batch))
                if bar.disable and time.monotonic() - said > SAY_EVERY_S:
                    log.info("%d of %d films", done, len(films))
                    said = time.monotonic()
            yield pd.concat(rows, ignore_index=True)


def _batch(predictor: Predictor, batch: "Sequence[tuple[Film, np.ndarray | DecodeError | None]]", heat_maps: Path | None) -> pd.DataFrame:
    is_read = np.array([isinstance(result, np.ndarray) for _, result in batch])
    logits = np.zeros((len(batch), len(predictor.findings)), np.float32)
    if is_read.any():
        logits[is_read] = predictor.logits(np.stack([result for _, result in batch if isinstance(result, np.ndarray)])).cpu().numpy()
    if (bad := np.flatnonzero(~np.isfinite(logits).all(axis=1))).size:
        raise RunError(f"{batch[bad[0]][0].source}: the network gives no finite number of it")
    columns = predictor.columns(logits)
    if heat_maps:
        for (film, result), values, calls in zip(batch, logits, _called(predictor, columns, len(batch)), strict=True):
            if isinstance(result, np.ndarray):
                _draw(predictor, result, calls or [predictor.findings[int(values.argmax())]] * (not predictor.operating), heat_maps / film.image_id)
    told = {
        "image_id": [film.image_id for film, _ in batch],
        "path": [_text(str(film.source)) for film, _ in batch],
        "reason": ["" if isinstance(result, np.ndarray) else str(result) for _, result in batch],
    }
    return pd.DataFrame(told | columns)


def _called(predictor: Predictor, columns: Mapping[str, np.ndarray], n_films: int) -> list[list[str]]:
    """The findings that each film is called with."""
    return [[finding for finding in predictor.operating if columns[f"call_{finding}"][row]] for row in range(n_films)]


def _draw(predictor: Predictor, film: np.ndarray, findings: Sequence[str], name: Path) -> None:
    """An overlay for each finding, named as the film and the finding."""
    import cv2

    from cxr.atomic import write_whole
    from cxr.explain.drawing import overlay

    if not findings:
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    for finding, heat in zip(findings, predictor.heat_maps(film[None], findings)[0], strict=True):
        _, content = cv2.imencode(".png", overlay(predictor.centre(film), heat)[..., ::-1])
        write_whole(name.with_name(f"{name.name}.{finding}.png"), content.tobytes())


def _text(name: str) -> str:
    """A file's name may hold bytes that are no text; a table may not."""
    return name.encode(errors="backslashreplace").decode()
