"""One film file in, one grey square out."""

import os

# a truncated file is our message to give, not libpng's to print; read by OpenCV when it is first imported
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

from pathlib import Path

import cv2
import numpy as np

from cxr.data.png import DecodeError, decode_png, read_chunks, require_film_size

# a film of 4,096 pixels and 16 bits, not compressed at all, has 32 MB
MAX_FILE_BYTES = 2**28

# Raised whenever the same file would give other pixels, so that a store made by an older rule is noticed.
RULE = "grey by luminance, 16 bits by their upper byte, alpha ignored, padded to a square with black, cv2.INTER_AREA; version 1"


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
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise DecodeError(f"larger than {MAX_FILE_BYTES >> 20} MB, which is no film")
    chunks = read_chunks(data)
    require_film_size(chunks)
    pixels = decode_png(chunks)
    pixels = decode_opencv(data) if pixels is None else grey(pixels, cv2.COLOR_RGB2GRAY, cv2.COLOR_RGBA2GRAY)
    return resize_square(pixels, size)


def decode_opencv(data: bytes) -> np.ndarray:
    """What decides wherever `cxr.data.png` does not answer: any PNG to (H, W) uint8 grey; DecodeError if OpenCV cannot read it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # a header that promises more pixels than OpenCV accepts
        raise DecodeError("larger than any film: OpenCV refuses its size") from error
    if pixels is None:
        raise DecodeError("the pixels cannot be decoded")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return grey(pixels, cv2.COLOR_BGR2GRAY, cv2.COLOR_BGRA2GRAY)


def grey(pixels: np.ndarray, three: int, four: int) -> np.ndarray:
    """(H, W) or (H, W, 3 or 4) uint8 to (H, W): luminance by the OpenCV conversion that fits the order of the three or four channels."""
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, four if pixels.shape[2] == 4 else three)


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
