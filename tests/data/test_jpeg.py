"""Mirrors data/jpeg.py: a JPEG gives OpenCV's pixels or none at all."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr.data.decode import decode, resize_square
from cxr.data.jpeg import require_jpeg
from cxr.data.png import DecodeError


def film(tmp_path: Path, *, channels: int = 1, name: str = "film.jpg", flags: list[int] | None = None) -> Path:
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (90, 70, channels), np.uint8), (0, 0), 2)
    assert cv2.imwrite(str(tmp_path / name), pixels, flags or [])
    return tmp_path / name


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]], ids=["baseline", "progressive"])
def test_a_grey_jpeg_is_opencvs_whatever_it_is_called(tmp_path: Path, flags: list[int]) -> None:
    path = film(tmp_path, flags=flags)
    expected = resize_square(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), 64)
    np.testing.assert_array_equal(decode(path, 64), expected)
    np.testing.assert_array_equal(decode(path.rename(tmp_path / "film.png"), 64), expected)


def test_a_coloured_one_is_its_luminance(tmp_path: Path) -> None:
    path = film(tmp_path, channels=3)
    grey = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(decode(path, 64), resize_square(grey, 64))


def test_a_cut_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    content = film(tmp_path).read_bytes()
    for length in [3, 4, 20, 200, *range(300, len(content), 97), len(content) - 1]:
        with pytest.raises(DecodeError, match=r"truncated|damaged|cannot be decoded"):
            require_jpeg(content[:length])


def test_a_header_of_more_pixels_than_a_film_has_is_refused_before_they_are_made(tmp_path: Path) -> None:
    content = bytearray(film(tmp_path).read_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    (tmp_path / "huge.jpg").write_bytes(content)
    with pytest.raises(DecodeError, match="65535 x 65535 pixels, which is no film"):
        decode(tmp_path / "huge.jpg", 64)
