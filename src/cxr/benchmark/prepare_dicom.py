"""DICOM films decoded and reduced to 256 pixels, against the loop that people write: pydicom, its windows, PIL."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from cxr.benchmark.command import missing
from cxr.benchmark.films import STORED
from cxr.benchmark.measure import Case, Contest
from cxr.data.decode import decode, resize_square
from cxr.data.dicom_streams import encode_lossless_jpeg
from cxr.dicom import PACKAGES, film_bytes, load

PLAIN, LOSSLESS_JPEG, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
# of 12 bits; it leads back to the greys of the film
WINDOW = {"RescaleSlope": "0.5", "RescaleIntercept": "-1024", "WindowCenter": "0", "WindowWidth": "2048"}


@dataclass(frozen=True)
class Kind:
    """A kind of film: its side in pixels, bits stored (12 with a window), how it is packed, and how many a round takes."""

    name: str
    side: int
    bits: int
    syntax: str
    n: int


KINDS = (
    Kind("1024 pixels, 8 bits, not compressed", 1024, 8, PLAIN, 48),
    Kind("2048 pixels, 12 bits and a window, not compressed", 2048, 12, PLAIN, 12),
    Kind("1024 pixels, 8 bits, lossless JPEG", 1024, 8, LOSSLESS_JPEG, 12),
    Kind("2048 pixels, 12 bits and a window, lossless JPEG", 2048, 12, LOSSLESS_JPEG, 4),
    Kind("2048 pixels, 12 bits and a window, JPEG 2000", 2048, 12, JPEG_2000, 4),
)


def dicom_contests(folder: Path, paths: list[Path], size: float) -> list[Contest]:
    """A contest for each kind, on DICOM copies of some PNG films; none where pydicom is not installed."""
    if not all(map(find_spec, PACKAGES)):
        return []
    return [contest(kind, folder / str(number), paths[:4], max(1, int(kind.n * size))) for number, kind in enumerate(KINDS)]


def contest(kind: Kind, folder: Path, paths: list[Path], n: int) -> Contest:
    folder.mkdir()
    greys = [resize_square(decode(path, 1024), kind.side) for path in paths[:n]]
    copies = [folder / f"{i}.dcm" for i in range(len(greys))]
    for grey, path in zip(greys, copies, strict=True):
        path.write_bytes(dicom_copy(grey, kind))
    films = list(islice(cycle(copies), n))
    out = np.empty((n, STORED, STORED), np.uint8)

    def each(convert: Callable[[Path], np.ndarray]) -> Callable[[], int]:
        def work() -> int:
            for i, path in enumerate(films):
                out[i] = convert(path)
            return n

        return work

    cases, absent = [Case("cxr", "ours", each(lambda path: decode(path, STORED)))], {}
    if lacking := missing("PIL"):
        absent["pydicom and PIL, Lanczos"] = lacking
    else:
        cases.append(Case("pydicom and PIL, Lanczos", "peer", each(plain_loop)))
    apart = max(abs(decode(path, STORED).astype(int) - resize_square(grey, STORED)).max() for path, grey in zip(copies, greys, strict=True))
    return Contest(
        f"Decode a DICOM film of {kind.name}, and reduce it to {STORED}, one thread",
        "films",
        cases,
        [("cxr", "pydicom and PIL, Lanczos")],
        absent,
        [f"The greys are {'those' if apart <= (kind.bits > 8) else 'NOT those'} of the PNG film{', within one level' if kind.bits > 8 else ''}."],
    )


def dicom_copy(grey: np.ndarray, kind: Kind) -> bytes:
    """A film as DICOM; with 12 bits, the lower four are noise, as those of a detector are."""
    pixels = grey
    if kind.bits > 8:
        pixels = grey.astype(np.uint16) << 4 | np.random.default_rng(0).integers(0, 16, grey.shape, dtype=np.uint16)
    frame = encode_lossless_jpeg(pixels, kind.bits) if kind.syntax == LOSSLESS_JPEG else None
    return film_bytes(pixels, bits=kind.bits, syntax=kind.syntax, frame=frame, **(WINDOW if kind.bits > 8 else {}))


def plain_loop(path: Path) -> np.ndarray:
    """What is written a hundred times over: stretched to 8 bits where there are more."""
    from PIL import Image

    pydicom = load()
    film = pydicom.dcmread(path)
    values = film.pixel_array
    if values.dtype != np.uint8:
        shown = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(values, film), film)
        values = ((shown - shown.min()) / (shown.max() - shown.min()) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(values).resize((STORED, STORED), Image.Resampling.LANCZOS))
