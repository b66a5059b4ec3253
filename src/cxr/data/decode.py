"""One film file in, one grey square out."""

import os

# a truncated file is our message to give, not libpng's to print; read by OpenCV when it is first imported
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import zlib
from pathlib import Path

import cv2
import numpy as np

# Raised whenever the same file would give other pixels, so that a store made by an older rule is noticed.
RULE = "grey by luminance, 16 bits by their upper byte, alpha ignored, padded to a square with black, cv2.INTER_AREA; version 1"

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DecodeError(ValueError):
    """A file that is no readable image; the message is the reason, without the path."""


def decode(path: Path, size: int) -> np.ndarray:
    """Reads a PNG of any mode (grey, RGB, RGBA, palette; 1 to 16 bits) as one grey channel.

    Args:
        path: the file.
        size: side of the result in pixels.

    Returns:
        (size, size) uint8. An RGBA film with R = G = B gives what its grey copy gives. A file that is not square is padded, never stretched.

    Raises:
        DecodeError: unreadable, truncated, or damaged (every chunk's checksum is verified: a decoder may return half a film without a word).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error
    check_png(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DecodeError("the pixels cannot be decoded")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2GRAY if pixels.shape[2] == 4 else cv2.COLOR_BGR2GRAY)
    return resize_square(pixels, size)


def check_png(data: bytes) -> None:
    """Walks a PNG's chunks (ISO/IEC 15948, section 5); DecodeError with the reason unless every one is whole and the last is IEND."""
    if not data:
        raise DecodeError("the file is empty")
    if not data.startswith(SIGNATURE):
        raise DecodeError("not a PNG file")
    at, view = len(SIGNATURE), memoryview(data)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DecodeError(f"damaged: wrong checksum in chunk {kind.decode('ascii', 'replace')} at byte {at}")
        if kind == b"IEND":
            return
        at = end
    raise DecodeError(f"truncated after {len(data)} bytes")


def resize_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W) uint8 to (size, size): padded with black to a square, then averaged over areas.

    >>> resize_square(np.full((2, 4), 200, np.uint8), 2)
    array([[100, 100],
           [100, 100]], dtype=uint8)
    """
    height, width = pixels.shape
    if height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        pixels = cv2.copyMakeBorder(pixels, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0)
    return pixels if pixels.shape[0] == size else cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
