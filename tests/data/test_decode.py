"""Mirrors data/decode.py. The oracle is Pillow."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.data.decode import DecodeError, Reading, decode

GREY = (np.add.outer(np.arange(64), 2 * np.arange(64)) % 256).astype(np.uint8)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def film(tmp_path: Path):
    def write(content: bytes) -> Path:
        path = tmp_path / "film.png"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_every_mode_gives_what_the_grey_film_gives(film, mode: str) -> None:
    image = Image.fromarray(GREY)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    else:
        image = image.convert(mode)
    np.testing.assert_array_equal(decode(film(png(image)), 64), GREY)


def test_sixteen_bits_become_eight_by_their_upper_byte(film) -> None:
    sixteen = GREY.astype(np.uint16) * 256 + 200
    np.testing.assert_array_equal(decode(film(png(Image.fromarray(sixteen))), 64), GREY)


def test_one_bit_becomes_black_and_white(film) -> None:
    np.testing.assert_array_equal(decode(film(png(Image.fromarray(GREY > 127))), 64), np.where(GREY > 127, 255, 0))


def test_colour_becomes_luminance_within_one_level(film) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    oracle = np.asarray(Image.fromarray(colour).convert("L")).astype(int)
    assert abs(decode(film(png(Image.fromarray(colour))), 64).astype(int) - oracle).max() <= 1


def test_shrinking_averages_areas(film) -> None:
    oracle = GREY.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert abs(decode(film(png(Image.fromarray(GREY))), 16) - oracle).max() <= 0.5


def test_a_film_that_is_not_square_is_padded_and_not_stretched(film) -> None:
    result = decode(film(png(Image.fromarray(GREY[:32]))), 64)
    np.testing.assert_array_equal(result[16:48], GREY[:32])
    assert not result[:16].any()
    assert not result[48:].any()


def spoiled(name: str) -> bytes:
    whole = png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)))
    return {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "end missing": whole[:-12],
        "text": b"not a film at all",
        "damaged": whole[:120] + bytes([whole[120] ^ 255]) + whole[121:],
        "header only": whole[:33],
        "signature only": whole[:8],
    }[name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "empty"),
        ("truncated", "truncated"),
        ("end missing", "truncated"),
        ("text", "not a PNG"),
        ("damaged", "wrong checksum in chunk IDAT"),
        ("header only", "truncated"),
        ("signature only", "truncated"),
    ],
)
def test_a_spoiled_file_is_refused_with_the_reason(film, capfd: pytest.CaptureFixture[str], name: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(film(spoiled(name)), 64)
    assert capfd.readouterr().err == ""  # the decoder's own complaints are not for users


def test_a_file_that_is_not_there_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="No such file"):
        decode(tmp_path / "absent.png", 64)


def test_real_films_equal_pillow_and_colour_ones_their_grey_copy(real: Path, film) -> None:
    paths = sorted((real / "data" / "cxr14_1024" / "images").iterdir())
    modes = {path: Image.open(path).mode for path in paths}
    chosen = [path for path in paths if modes[path] == "RGBA"] + [path for path in paths if modes[path] == "L"][:5]
    assert len(chosen) == 15
    for path in chosen:
        pixels = np.asarray(Image.open(path).convert("RGBA"))[..., 0]
        np.testing.assert_array_equal(decode(path, 1024), pixels)
        np.testing.assert_array_equal(decode(path, 256), decode(film(png(Image.fromarray(pixels))), 256))
        area = pixels.reshape(256, 4, 256, 4).mean(axis=(1, 3))
        assert abs(decode(path, 256) - area).max() <= 0.5


def test_a_header_that_promises_absurdly_many_pixels_is_refused_with_the_reason(film) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    with pytest.raises(DecodeError, match="larger than any film"):
        decode(film(data), 64)


def test_a_strip_whose_square_would_take_gigabytes_is_refused_with_the_reason(film) -> None:
    path = film(png(Image.fromarray(np.zeros((2, 60_000), np.uint8))))
    with pytest.raises(DecodeError, match="no film has its shape: 60000 x 2"):
        decode(path, 64)
    assert not decode(path, 64, Reading(fit="crop")).any()
