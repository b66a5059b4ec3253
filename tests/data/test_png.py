"""Mirrors data/png.py. The oracles are OpenCV and Pillow, and for a filter the standard's own words; every PNG but the real films is written here by hand."""

import io
import itertools
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.data.decode import DecodeError, decode, decode_opencv, grey
from cxr.data.png import SIGNATURE, decode_png, read_chunks

CHANNELS = {"grey": 1, "RGB": 3, "RGBA": 4}
COLOUR_TYPE = {"grey": 0, "RGB": 2, "RGBA": 6}
MODE = {"grey": "L", "RGB": "RGB", "RGBA": "RGBA"}


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def filtered(pixels: np.ndarray, kinds: np.ndarray) -> bytes:
    """(H, W, C) uint8 and each row's filter type to the stream before deflate, by the formulas of ISO/IEC 15948, 9.2 and 9.4."""
    height, width, bpp = pixels.shape
    raw = np.zeros((height + 1, (width + 1) * bpp), int)  # with the zeros that stand above and left of the image
    raw[1:, bpp:] = pixels.reshape(height, -1)
    x, a, b, c = raw[1:, bpp:], raw[1:, :-bpp], raw[:-1, bpp:], raw[:-1, :-bpp]
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
    predicted = np.stack([np.zeros_like(x), a, b, (a + b) // 2, paeth])[np.minimum(kinds, 4), np.arange(height)]
    return np.column_stack([kinds, (x - predicted) % 256]).astype(np.uint8).tobytes()


def png(pixels: np.ndarray, kinds: np.ndarray | int = 4, *, before: bytes = b"", after: bytes = b"", n_idat: int = 1, level: int = 6) -> bytes:
    """(H, W, C) uint8 as a PNG: other chunks before and after the n_idat that hold the stream."""
    height, width, bpp = pixels.shape
    stream = zlib.compress(filtered(pixels, np.broadcast_to(kinds, height)), level)
    cuts = np.linspace(0, len(stream), n_idat + 1).astype(int)
    idat = b"".join(chunk(b"IDAT", stream[start:end]) for start, end in itertools.pairwise(cuts))
    return SIGNATURE + header(width, height, colour={1: 0, 3: 2, 4: 6}[bpp]) + before + idat + after + chunk(b"IEND")


def with_stream(stream: bytes, width: int = 32, height: int = 32) -> bytes:
    return SIGNATURE + header(width, height) + chunk(b"IDAT", stream) + chunk(b"IEND")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fast(data: bytes) -> np.ndarray | None:
    """What the fast path alone gives: (H, W) grey, or None."""
    pixels = decode_png(read_chunks(data))
    return None if pixels is None else grey(pixels, cv2.COLOR_RGB2GRAY, cv2.COLOR_RGBA2GRAY)


def outcome(function, *arguments) -> object:
    """The pixels as a list, or the error, to compare two ways of decoding."""
    try:
        return function(*arguments).tolist()
    except (DecodeError, cv2.error) as error:
        return type(error), str(error)


def opencv_alone(data: bytes) -> np.ndarray:
    read_chunks(data)
    return decode_opencv(data)


def both(data: bytes) -> np.ndarray:
    """As `decode` composes the two, without a file and without resizing."""
    pixels = fast(data)
    return decode_opencv(data) if pixels is None else pixels


@pytest.mark.parametrize("kind", range(5), ids=["none", "sub", "up", "average", "paeth"])
@pytest.mark.parametrize("mode", CHANNELS)
def test_every_filter_gives_the_pixels_that_were_filtered(mode: str, kind: int) -> None:
    for height, width in [(1, 1), (1, 37), (41, 1), (2, 2), (33, 57), (64, 64)]:
        pixels = noise(height, width, CHANNELS[mode], seed=width)
        data = png(pixels, kind)
        np.testing.assert_array_equal(decode_png(read_chunks(data)).reshape(pixels.shape), pixels)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(pixels.shape), pixels)
        np.testing.assert_array_equal(fast(data), decode_opencv(data))


@pytest.mark.parametrize("mode", CHANNELS)
def test_mixed_filters_equal_opencv(mode: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        height, width = rng.integers(1, 90, 2)
        # few levels make the ties of Paeth's distances frequent
        pixels = (rng.integers(0, rng.integers(2, 257), (height, width, CHANNELS[mode]))).astype(np.uint8)
        data = png(pixels, rng.integers(0, 5, height), n_idat=int(rng.integers(1, 6)), level=int(rng.integers(0, 10)))
        np.testing.assert_array_equal(decode_png(read_chunks(data)).reshape(pixels.shape), pixels)
        np.testing.assert_array_equal(fast(data), decode_opencv(data))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_becomes_the_grey_that_opencv_makes_of_it(mode: str) -> None:
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 3)] * 3), axis=-1).reshape(86, -1, 3).astype(np.uint8)  # 86 levels of each
    pixels = np.concatenate([colours, noise(86, 86 * 86, 1)], axis=2) if mode == "RGBA" else colours
    data = png(pixels, 2, level=1)
    np.testing.assert_array_equal(fast(data), decode_opencv(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_what_pillow_writes_is_read(mode: str) -> None:
    out = io.BytesIO()
    Image.fromarray(noise(70, 90, 4), "RGBA").convert(mode).resize((300, 300)).save(out, "PNG")
    data = out.getvalue()
    assert fast(data) is not None
    np.testing.assert_array_equal(fast(data), decode_opencv(data))


def test_an_empty_idat_between_others_changes_nothing() -> None:
    pixels = noise(20, 30, 1)
    stream = zlib.compress(filtered(pixels, np.full(20, 4)))
    idat = [b"", stream[:50], b"", b"", stream[50:], b""]
    data = SIGNATURE + header(30, 20) + b"".join(chunk(b"IDAT", part) for part in idat) + chunk(b"IEND")
    np.testing.assert_array_equal(fast(data), pixels[..., 0])
    np.testing.assert_array_equal(decode_opencv(data), pixels[..., 0])


def test_bytes_after_the_end_change_nothing() -> None:
    data = png(noise(20, 30, 1)) + b"appended"
    np.testing.assert_array_equal(fast(data), decode_opencv(data))


SENSIBLE = {
    b"tIME": struct.pack(">HBBBBB", 2017, 9, 1, 12, 0, 60),
    b"pHYs": struct.pack(">IIB", 3000, 1000, 1),  # pixels that are not square
    b"tEXt": b"Raw profile type exif\0\nexif\n      12\n4d4d002a0000\n",
    b"gAMA": struct.pack(">I", 100000),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"sRGB": b"\1",
}


@pytest.mark.parametrize("kind", SENSIBLE)
def test_a_chunk_called_harmless_is_so_to_opencv_whatever_is_in_it(kind: bytes) -> None:
    rng = np.random.default_rng(2)
    nonsense = [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in (0, 1, 3, 4, 7, 9, 31, 32, 33, 500)]
    for content in [SENSIBLE[kind], bytes(len(SENSIBLE[kind])), *nonsense]:
        for mode in CHANNELS:
            pixels = noise(9, 11, CHANNELS[mode])
            other = chunk(kind, content)
            for data in (png(pixels, before=other), png(pixels, after=other), png(pixels, before=other + other, after=other)):
                assert fast(data) is not None
                np.testing.assert_array_equal(fast(data), decode_opencv(data))


def test_all_harmless_chunks_together_change_nothing() -> None:
    together = b"".join(chunk(kind, content) for kind, content in SENSIBLE.items())
    for mode in CHANNELS:
        data = png(noise(9, 11, CHANNELS[mode]), before=together)
        np.testing.assert_array_equal(fast(data), decode_opencv(data))


def unusual(name: str) -> bytes:
    """A PNG that is whole and not the fast path's to decode."""
    pixels = noise(32, 32, 1)
    rgb = noise(32, 32, 3)
    stream = zlib.compress(filtered(pixels, np.full(32, 4)))
    image = {
        "palette": lambda: Image.fromarray(pixels[..., 0]).convert("P"),
        "16 bits": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "1 bit": lambda: Image.fromarray(pixels[..., 0] > 127),
        "grey and alpha": lambda: Image.fromarray(pixels[..., 0]).convert("LA"),
    }
    if name in image:
        out = io.BytesIO()
        image[name]().save(out, "PNG")
        return out.getvalue()
    small_window = zlib.compressobj(9, zlib.DEFLATED, 9)
    return {
        "interlaced": SIGNATURE + header(1, 1, interlace=1) + chunk(b"IDAT", zlib.compress(b"\0\7")) + chunk(b"IEND"),
        "transparent grey": png(pixels, before=chunk(b"tRNS", b"\0\7")),
        "transparent colour": png(rgb, before=chunk(b"tRNS", rgb[0, 0].astype(">u2").tobytes())),
        "suggested palette": png(rgb, before=chunk(b"PLTE", bytes(range(12)))),
        "significant bits": png(pixels, before=chunk(b"sBIT", b"\4")),
        "orientation": png(pixels, before=chunk(b"eXIf", b"MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
        "animation": png(pixels, before=chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 32, 32, 0, 0, 1, 10, 0, 0))),
        "unknown critical chunk": png(pixels, before=chunk(b"ABCD", b"x")),
        "unknown chunk": png(pixels, before=chunk(b"abCd", b"x")),
        "chunk between the IDAT": SIGNATURE
        + header(32, 32)
        + chunk(b"IDAT", stream[:99])
        + chunk(b"tIME", SENSIBLE[b"tIME"])
        + chunk(b"IDAT", stream[99:])
        + chunk(b"IEND"),
        "two headers": png(pixels, before=header(32, 32)),
        "header not first": SIGNATURE + chunk(b"tIME", SENSIBLE[b"tIME"]) + png(pixels)[8:],
        "long header": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0) + b"\0") + png(pixels)[33:],
        "no IDAT": SIGNATURE + header(32, 32) + chunk(b"IEND"),
        "only the end": SIGNATURE + chunk(b"IEND"),
        "end with content": png(pixels)[:-12] + chunk(b"IEND", b"x"),
        "a long text": png(pixels, before=chunk(b"tEXt", b"key\0" + b"x" * 70000)),
        "no width": with_stream(stream, width=0),
        "another window": with_stream(small_window.compress(filtered(pixels, np.full(32, 4))) + small_window.flush()),
        "colour type 1": SIGNATURE + header(32, 32, colour=1) + chunk(b"IDAT", stream) + chunk(b"IEND"),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "palette",
        "16 bits",
        "1 bit",
        "grey and alpha",
        "interlaced",
        "transparent grey",
        "transparent colour",
        "suggested palette",
        "significant bits",
        "orientation",
        "animation",
        "unknown critical chunk",
        "unknown chunk",
        "chunk between the IDAT",
        "two headers",
        "header not first",
        "long header",
        "no IDAT",
        "only the end",
        "end with content",
        "a long text",
        "no width",
        "another window",
        "colour type 1",
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_opencv(name: str) -> None:
    assert decode_png(read_chunks(unusual(name))) is None


def damaged(name: str) -> bytes:
    """A PNG whose chunks are whole and whose stream is not what its header says."""
    raw = filtered(noise(32, 32, 1), np.full(32, 4))
    stream = zlib.compress(raw)
    return with_stream(
        {
            "empty": b"",
            "header only": stream[:2],
            "half": stream[: len(stream) // 2],
            "checksum missing": stream[:-4],
            "checksum cut": stream[:-1],
            "checksum wrong": stream[:-1] + bytes([stream[-1] ^ 1]),
            "bytes appended": stream + b"xyz",
            "checksum twice": stream + stream[-4:],
            "a second stream": stream + stream,
            "a row missing": zlib.compress(raw[:-33]),
            "a byte missing": zlib.compress(raw[:-1]),
            "a byte more": zlib.compress(raw + b"\0"),
            "a row more": zlib.compress(raw + raw[-33:]),
            "no such filter": zlib.compress(raw[:330] + b"\5" + raw[331:]),
            "dictionary": bytes([stream[0], 0xBB]) + b"\0\0\0\1" + stream[2:],
            "zlib header wrong": stream[:1] + bytes([stream[1] ^ 1]) + stream[2:],
            "not deflate": b"\x78\x9c" + b"\xff" * 40,
            "gzip": zlib.compress(raw, wbits=31),
        }[name]
    )


DAMAGES = [
    "empty",
    "header only",
    "half",
    "checksum missing",
    "checksum cut",
    "checksum wrong",
    "bytes appended",
    "checksum twice",
    "a second stream",
    "a row missing",
    "a byte missing",
    "a byte more",
    "a row more",
    "no such filter",
    "dictionary",
    "zlib header wrong",
    "not deflate",
    "gzip",
]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_stream_that_is_not_exactly_the_film_is_left_to_opencv(name: str) -> None:
    data = damaged(name)
    assert fast(data) is None
    assert outcome(both, data) == outcome(opencv_alone, data)


def test_flipped_bytes_under_a_repaired_checksum_end_as_they_do_with_opencv() -> None:
    rng = np.random.default_rng(3)
    stream = zlib.compress(filtered(noise(32, 32, 1) // 16, rng.integers(0, 5, 32)))
    for _ in range(300):
        spoiled = bytearray(stream)
        for at in rng.integers(0, len(spoiled), rng.integers(1, 4)):
            spoiled[at] ^= 1 << rng.integers(0, 8)
        data = with_stream(bytes(spoiled))
        assert outcome(both, data) == outcome(opencv_alone, data)


@pytest.mark.parametrize("side", [65000, 2**31 - 1])
def test_an_absurd_header_costs_no_memory(side: int) -> None:
    chunks = read_chunks(with_stream(zlib.compress(bytes(1 << 20)), side, side))
    tracemalloc.start()
    assert decode_png(chunks) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_header_that_claims_too_much_costs_only_what_the_stream_holds() -> None:
    chunks = read_chunks(with_stream(zlib.compress(bytes(1 << 20)), 16000, 16000))
    tracemalloc.start()
    assert decode_png(chunks) is None
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_stream_that_holds_more_than_its_header_claims_costs_only_what_is_claimed() -> None:
    chunks = read_chunks(with_stream(zlib.compress(bytes(64 << 20), 9), 32, 32))
    tracemalloc.start()
    assert decode_png(chunks) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_every_real_film_is_decoded_fast_and_equals_opencv(real: Path) -> None:
    paths = sorted((real / "data" / "cxr14_1024" / "images").iterdir())
    assert len(paths) == 148
    for path in paths:
        data = path.read_bytes()
        pixels = fast(data)
        assert pixels is not None, path
        np.testing.assert_array_equal(pixels, decode_opencv(data))


@pytest.mark.parametrize("blocked", [["isal"], ["numba"], ["isal", "numba"]], ids=" and ".join)
def test_without_the_libraries_the_pixels_are_the_same(tmp_path: Path, blocked: list[str]) -> None:
    (tmp_path / "film.png").write_bytes(png(noise(300, 300, 4), n_idat=3))
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from cxr.data.decode import decode
from cxr.data.png import decode_png, read_chunks
film = Path(sys.argv[1])
assert decode_png(read_chunks(film.read_bytes())) is None
np.save(sys.argv[2], decode(film, 100))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "film.png"), str(tmp_path / "without.npy")], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "without.npy"), decode(tmp_path / "film.png", 100))


def test_a_compiler_that_fails_leaves_the_film_to_opencv(tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(png(noise(64, 64, 1)))
    code = """
import sys
from pathlib import Path
import numba
def njit(*arguments, **options):
    raise numba.core.errors.LoweringError("no compiler")
numba.njit = njit
from cxr.data.decode import decode
from cxr.data.png import decode_png, read_chunks
assert decode_png(read_chunks(Path(sys.argv[1]).read_bytes())) is None
assert decode(Path(sys.argv[1]), 64).any()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "film.png")], check=True)
