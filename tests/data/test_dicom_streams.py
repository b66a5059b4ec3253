"""Mirrors data/dicom_streams.py. The oracles are pydicom with libjpeg, and real files (pydicom-data)."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from commands import absent

from cxr.data.dicom_streams import decode_lossless_jpeg, decode_rle, encode_lossless_jpeg, unpack_bits
from cxr.dicom import DicomError, film_bytes

JPEG, RLE = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.5"


def films() -> dict[str, tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40), np.arange(51))
    return {
        "smooth": (smooth.astype(np.uint8), 8),
        "noise of 8 bits": (rng.integers(0, 256, (40, 51)).astype(np.uint8), 8),
        "noise of 12 bits": (rng.integers(0, 4096, (40, 51)).astype(np.uint16), 12),
        "noise of 16 bits": (rng.integers(0, 65536, (40, 51)).astype(np.uint16), 16),
        "the longest steps": (np.tile(np.array([[0, 32768, 0, 65535]], np.uint16), (9, 5)), 16),
        "one pixel": (np.full((1, 1), 7, np.uint8), 8),
    }


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("name", films())
def test_lossless_jpeg_gives_back_what_was_packed_and_what_libjpeg_finds(name: str, predictor: int) -> None:
    pixels, bits = films()[name]
    frame = encode_lossless_jpeg(pixels, bits, predictor)
    oracle = pydicom.dcmread(io.BytesIO(film_bytes(pixels, bits=bits, syntax=JPEG, frame=frame))).pixel_array
    np.testing.assert_array_equal(decode_lossless_jpeg(frame), pixels)
    np.testing.assert_array_equal(oracle, pixels)


def test_real_lossless_jpeg_is_what_libjpeg_finds() -> None:
    found = find_spec("data_store")
    if found is None or not found.submodule_search_locations:
        absent("REAL MATERIAL ABSENT: pydicom-data is not installed")
    for name in ("JPEG-LL", "JPGLosslessP14SV1_1s_1f_8b"):  # 16 bits with a sign, and 8
        film = pydicom.dcmread(Path(found.submodule_search_locations[0]) / "data" / f"{name}.dcm")
        pixels = decode_lossless_jpeg(pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1))
        oracle = film.pixel_array
        np.testing.assert_array_equal(pixels, oracle.view(f"u{oracle.itemsize}"))


def test_damaged_lossless_jpeg_is_refused_or_left_to_another_decoder_and_never_half_read() -> None:
    pixels, bits = films()["noise of 12 bits"]
    frame = encode_lossless_jpeg(pixels, bits)
    at = frame.index(b"\xff\xda") + 10
    for spoiled in (
        frame[: at + 500] + b"\xff\xd9",
        frame[:at] + frame[at + 1 :],
        frame[:-2] + b"\x12\x34\xff\xd9",
        frame[: at + 90] + b"\xff\xd0" + frame[at + 90 :],
    ):
        with pytest.raises(DicomError, match="another size"):
            decode_lossless_jpeg(spoiled)
    for other in (frame.replace(b"\xff\xc3", b"\xff\xc1", 1), frame.replace(b"\xff\xda", b"\xff\xdd\0\x04\0\x09\xff\xda", 1)):
        assert decode_lossless_jpeg(other) is None


@pytest.mark.parametrize("name", films())
def test_rle_gives_back_what_was_packed(name: str) -> None:
    pixels, bits = films()[name]
    film = pydicom.dcmread(io.BytesIO(film_bytes(pixels, bits=bits, syntax=RLE)))
    frame = pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1)
    np.testing.assert_array_equal(decode_rle(frame, *pixels.shape, 1, pixels.itemsize), pixels)
    colour = np.stack([pixels, pixels[::-1], 255 - pixels], axis=2) if bits == 8 else None
    if colour is not None:
        film = pydicom.dcmread(io.BytesIO(film_bytes(colour, bits=8, syntax=RLE, photometric="RGB")))
        frame = pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1)
        np.testing.assert_array_equal(decode_rle(frame, *pixels.shape, 3, 1), colour)


@pytest.mark.parametrize(
    ("packed", "told"),
    [
        ([2, 1, 2, 3], True),  # three as they are
        ([254, 7], True),  # one, three times
        ([128, 254, 7, 0], True),  # nothing, then those; and a byte to make it even
        ([253, 7], False),  # four
        ([255, 7], False),  # two
        ([2, 1, 2], False),  # cut
        ([3, 1, 2, 3, 4], False),
        ([254, 7, 0, 9], False),  # more behind
        ([], False),
    ],
)
def test_bits_are_unpacked_to_three_bytes_or_not_at_all(packed: list[int], told: bool) -> None:
    out = np.zeros(3, np.uint8)
    assert unpack_bits(np.array(packed, np.uint8), out) is told
    if told:
        assert out.tolist() == ([1, 2, 3] if packed[0] == 2 else [7, 7, 7])


def test_rle_with_other_segments_than_bytes_is_refused() -> None:
    for frame in (b"", bytes(64), (2).to_bytes(4, "little") + (64).to_bytes(4, "little") + (9999).to_bytes(4, "little") + bytes(60)):
        with pytest.raises(DicomError):
            decode_rle(frame, 4, 4, 1, 2)
