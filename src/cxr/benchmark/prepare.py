"""Films decoded, reduced to 256 pixels and written, against PIL, with one thread and two; PNG, and DICOM copies of them."""

import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from cxr.benchmark.command import Settings, missing
from cxr.benchmark.films import STORED, film_paths
from cxr.benchmark.measure import Case, Contest, hold
from cxr.benchmark.prepare_dicom import dicom_contests
from cxr.data.decode import decode, decode_opencv, resize_square
from cxr.data.png import decode_png, read_chunks
from cxr.data.store import build_store

# films of a round
N = 49


def run_stage(settings: Settings) -> list[dict]:
    cv2.setNumThreads(1)
    n = max(2, int(N * settings.size))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = film_paths(settings, folder, n)
        contests = [decoding(paths, n), *dicom_contests(folder, paths, settings.size), building(folder, paths, n)]
        return [hold(contest, settings.rounds) for contest in contests]


def decoding(paths: list[Path], n: int) -> Contest:
    films = list(islice(cycle(paths), n))
    compressed = [path.read_bytes() for path in films]
    out = np.empty((n, STORED, STORED), np.uint8)
    reason = missing("isal", "numba")
    taken = sum(decode_png(read_chunks(data)) is not None for data in compressed) if not reason else 0

    def each(convert: Callable[[Path], np.ndarray]) -> Callable[[], int]:
        def work() -> int:
            for i, path in enumerate(films):
                out[i] = convert(path)
            return n

        return work

    def opencv(path: Path) -> np.ndarray:
        data = path.read_bytes()
        read_chunks(data)
        return resize_square(decode_opencv(data), STORED)

    def bare() -> int:
        for data in compressed:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return n

    cases = [Case("cxr, OpenCV", "ours", each(opencv)), Case("OpenCV, decoding alone", "limit", bare)]
    absent = {}
    if reason:
        absent["cxr, fast path"] = reason
    else:
        from isal import isal_zlib

        bodies = [b"".join(body for kind, body in read_chunks(data) if kind == b"IDAT") for data in compressed]

        def inflate() -> int:
            for body in bodies:
                isal_zlib.decompress(body)
            return n

        cases += [Case("cxr, fast path", "ours", each(lambda path: decode(path, STORED))), Case("ISA-L, inflating alone", "limit", inflate)]
    if lacking := missing("PIL"):
        absent["PIL, Lanczos"] = lacking
    else:
        from PIL import Image

        def pil(path: Path) -> np.ndarray:
            return np.asarray(Image.open(path).convert("L").resize((STORED, STORED), Image.Resampling.LANCZOS))

        cases.append(Case("PIL, Lanczos", "peer", each(pil)))
    same = all(np.array_equal(decode(path, STORED), opencv(path)) for path in films)
    return Contest(
        f"Decode a film of 1024 and reduce it to {STORED} pixels, one thread",
        "films",
        cases,
        [(ours, other) for ours in ("cxr, OpenCV", "cxr, fast path") for other in ("PIL, Lanczos", "OpenCV, decoding alone")],
        absent,
        [f"The fast path took {taken} of {n} films, and its pixels are {'those' if same else 'NOT those'} of OpenCV."] if not reason else [],
    )


def building(folder: Path, paths: list[Path], n: int) -> Contest:
    """The whole stage, writing included."""
    films = {f"{i:08d}.png": path for i, path in enumerate(islice(cycle(paths), 2 * n))}
    made = iter(range(10**9))

    def build(n_threads: int) -> Callable[[], int]:
        def work() -> int:
            build_store(folder / f"store_{next(made)}", films, size=STORED, source="benchmark", package_version="", n_threads=n_threads)
            return len(films)

        return work

    cases = [Case(f"cxr, {n_threads} thread{'s' * (n_threads > 1)}", "ours", build(n_threads)) for n_threads in (1, 2)]
    return Contest("Make a store, written to disk and synchronised", "films", cases, [("cxr, 2 threads", "cxr, 1 thread")])
