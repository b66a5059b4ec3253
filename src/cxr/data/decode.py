"""One film file in, one grey square out."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxr.data.dicom import VERSION as DICOM_VERSION
from cxr.data.dicom import decode_dicom
from cxr.data.jpeg import SIGNATURE as JPEG
from cxr.data.jpeg import require_jpeg
from cxr.data.png import MAX_BYTES, DecodeError, decode_png, read_chunks, require_film_size
from cxr.dicom import SUFFIXES, DicomError

# a truncated file is our message to give, not libpng's to print; and what OpenJPEG misses in a sound film is no news
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# a film of 4,096 pixels and 16 bits, not compressed at all, has 32 MB
MAX_FILE_BYTES = 2**28

FITS = {"pad": "padded to a square with black", "crop": "cut to the square in its middle"}
WINDOWS = {
    "voi": "its first VOI table, or window, or else from its darkest pixel to its brightest",
    "full": "from its darkest pixel to its brightest",
}


@dataclass(frozen=True)
class Reading:
    """What is up to the user when a film is read.

    Attributes:
        fit: what becomes of a film that is not square: "pad" or "crop".
        dicom_window: how the values of a DICOM film become greys: "voi" or "full" (`cxr.data.dicom.decode_dicom`).
    """

    fit: str = "pad"
    dicom_window: str = "voi"

    def rule(self, paths: Iterable[Path]) -> str:
        """In words, what makes the pixels of these films what they are. DICOM is spoken of where one of them is: a store of PNG films does not depend on it."""
        # The version is raised whenever the same file would give other pixels, so that a store made by an older rule is noticed.
        rule = f"grey by luminance, 16 bits by their upper byte, alpha ignored, {FITS[self.fit]}, cv2.INTER_AREA; version 1"
        if any(is_dicom(path) for path in paths):
            rule += f"; DICOM: {WINDOWS[self.dicom_window]}, MONOCHROME1 inverted, padding black, pixels made square; version {DICOM_VERSION}"
        return rule


USUAL = Reading()


def is_dicom(path: Path) -> bool:
    """By its name: a file that is not what its name says is refused."""
    return path.suffix.lower() in SUFFIXES


def decode(path: Path, size: int, reading: Reading = USUAL) -> np.ndarray:
    """Reads a film as one grey channel: a PNG of any mode (grey, RGB, RGBA, palette; 1 to 16 bits), a JPEG, or DICOM.

    Args:
        path: the file.
        size: side of the result in pixels.
        reading: what is up to the user.

    Returns:
        (size, size) uint8. An RGBA film with R = G = B gives what its grey copy gives. A file that is not square is padded or cut, never stretched.

    Raises:
        DecodeError: unreadable, truncated, or damaged (every chunk's checksum of a PNG is verified: a decoder may return half a film without a word).
        MissingPackageError: a DICOM film, and pydicom or its decoders are not installed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise DecodeError(f"larger than {MAX_FILE_BYTES >> 20} MB, which is no film")
    if is_dicom(path):
        try:
            return resize_square(decode_dicom(data, reading.dicom_window), size, reading.fit)
        except DicomError as error:
            raise DecodeError(str(error)) from error
    if data.startswith(JPEG):
        require_jpeg(data)
        return resize_square(decode_opencv(data), size, reading.fit)
    chunks = read_chunks(data)
    require_film_size(chunks)
    pixels = decode_png(chunks)
    pixels = decode_opencv(data) if pixels is None else grey(pixels, cv2.COLOR_RGB2GRAY, cv2.COLOR_RGBA2GRAY)
    return resize_square(pixels, size, reading.fit)


def decode_opencv(data: bytes) -> np.ndarray:
    """What decides wherever `cxr.data.png` does not answer: any PNG or JPEG to (H, W) uint8 grey; DecodeError if OpenCV cannot read it."""
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


def resize_square(pixels: np.ndarray, size: int, fit: str = "pad") -> np.ndarray:
    """(H, W) uint8 to (size, size): padded with black to a square, or cut to the square in the middle, then averaged over areas.

    >>> resize_square(np.full((2, 4), 200, np.uint8), 2)
    array([[100, 100],
           [100, 100]], dtype=uint8)

    Raises:
        DecodeError: so long and narrow that its square would have more pixels than any film.
    """
    height, width = pixels.shape
    if height != width and fit == "pad":
        side = max(height, width)
        if side * side > MAX_BYTES:
            raise DecodeError(f"no film has its shape: {width} x {height} pixels")
        top, left = (side - height) // 2, (side - width) // 2
        pixels = cv2.copyMakeBorder(pixels, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0)
    elif height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return pixels if pixels.shape[0] == size else cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
