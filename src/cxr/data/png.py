"""PNG without libpng: inflated by ISA-L, unfiltered by a compiled loop, in a quarter of the time, for the two or three kinds that films come in.

It gives the pixels only where they are certain to be OpenCV's, bit for bit; otherwise None, and OpenCV decides, so that every error stays OpenCV's too.
Nothing here needs isal or numba to be installed: without either, the answer is always None. Both are loaded by the first film, never by an import.
"""

import struct
import zlib
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from cxr.data.loops import compiled

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# colour type -> bytes per pixel at 8 bits: grey, RGB, RGBA (ISO/IEC 15948, 11.2.2)
BYTES_PER_PIXEL = {0: 1, 2: 3, 6: 4}
# What says nothing about pixels that OpenCV would heed; it was tried on each, with sense and nonsense inside (tests/data/test_png.py).
# Transparency, palettes, animation, profiles and whatever is unknown are OpenCV's.
HARMLESS = frozenset({b"tIME", b"pHYs", b"tEXt", b"gAMA", b"cHRM", b"sRGB"})
HARMLESS_BYTES = 1 << 16  # libpng has limits of its own for larger ones

# no film is larger, and what a header claims beyond is not worth the memory of finding out
MAX_SIDE = 1 << 16
MAX_BYTES = 1 << 28

# filter types (ISO/IEC 15948, 9.2)
NONE, SUB, UP, AVERAGE, PAETH = range(5)


class DecodeError(ValueError):
    """A file that is no readable image; the message is the reason, without the path."""


def read_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """Walks a PNG's chunks (ISO/IEC 15948, section 5) and verifies the checksum of each.

    Args:
        data: the file.

    Returns:
        (kind, content) of each chunk in order, the last of them IEND; the contents are views of `data`, not copies.

    Raises:
        DecodeError: with the reason, unless every chunk is whole and the last is IEND.
    """
    if not data:
        raise DecodeError("the file is empty")
    if not data.startswith(SIGNATURE):
        raise DecodeError("not a PNG file")
    crc32 = (_isal() or zlib).crc32
    chunks = []
    at, view = len(SIGNATURE), memoryview(data)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DecodeError(f"damaged: wrong checksum in chunk {kind.decode('ascii', 'replace')} at byte {at}")
        chunks.append((kind, view[at + 8 : end - 4]))
        if kind == b"IEND":
            return chunks
        at = end
    raise DecodeError(f"truncated after {len(data)} bytes")


def require_film_size(chunks: list[tuple[bytes, memoryview]]) -> None:
    """Raises DecodeError if the header claims more pixels than any film has: a file of some hundred bytes could ask for gigabytes.

    Args:
        chunks: of a whole file, from `read_chunks`.
    """
    kind, header = chunks[0]
    if kind != b"IHDR" or len(header) != 13:
        raise DecodeError("no PNG header")
    width, height, depth = struct.unpack_from(">IIB", header)
    # what a decoder holds: up to four channels of one or two bytes, and a filter byte for every row
    if width > MAX_SIDE or height > MAX_SIDE or height * (1 + 4 * width * (1 + (depth > 8))) > MAX_BYTES:
        raise DecodeError(f"larger than any film: {width} x {height} pixels")


def decode_png(chunks: list[tuple[bytes, memoryview]]) -> np.ndarray | None:
    """The pixels of an 8-bit grey, RGB or RGBA film that is not interlaced, if nothing about it is out of the ordinary.

    Args:
        chunks: of a whole file, from `read_chunks`.

    Returns:
        (H, W) or (H, W, 3 or 4) uint8, channels in the file's order R, G, B, A; None if OpenCV has to be asked: another kind of PNG, a chunk that might
        change pixels, a stream that is damaged, too long or too short, or isal or numba missing.
    """
    isal = _isal()
    kinds = [kind for kind, _ in chunks]
    if isal is None or b"IDAT" not in kinds:
        return None
    first = kinds.index(b"IDAT")
    last = first + kinds.count(b"IDAT")
    others = chunks[1:first] + chunks[last:-1]
    # an IDAT that stands apart, or a second header, is found among the others, and is not harmless
    if kinds[0] != b"IHDR" or not all(kind in HARMLESS and len(content) <= HARMLESS_BYTES for kind, content in others) or len(chunks[-1][1]):
        return None
    shape = _film_shape(chunks[0][1])
    if shape is None:
        return None
    height, width, channels = shape

    # most films have some fifty IDAT, and joining them costs less than feeding them one by one
    stream = chunks[first][1] if last == first + 1 else b"".join(content for _, content in chunks[first:last])
    filtered = _inflate(isal, stream, height * (1 + width * channels))
    loop = compiled(unfilter, _of_unfilter) if filtered is not None else None
    if loop is None:
        return None
    pixels = np.empty((height, width * channels), np.uint8)
    if not loop(np.frombuffer(filtered, np.uint8), pixels, channels):
        return None
    return pixels if channels == 1 else pixels.reshape(shape)


def _film_shape(header: memoryview) -> tuple[int, int, int] | None:
    """(height, width, channels) from an IHDR chunk's content (ISO/IEC 15948, 11.2.2); None unless it is a kind of film that is ours to decode."""
    if len(header) != 13:
        return None
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if depth != 8 or colour not in BYTES_PER_PIXEL or (compression, filtering, interlace) != (0, 0, 0):
        return None
    channels = BYTES_PER_PIXEL[colour]
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and height * (1 + width * channels) <= MAX_BYTES):
        return None
    return height, width, channels


def _inflate(isal: ModuleType, stream: bytes | memoryview, n_bytes: int) -> bytes | None:
    """A zlib stream (RFC 1950) of exactly n_bytes, its Adler-32 verified; None if it is anything else.

    The memory grows with what really comes out and ends at n_bytes + 1: a header's claim alone allocates nothing.
    """
    # Deflate with a 32 KiB window and no dictionary, as every encoder writes it for a film: zlib holds a stream to a smaller window, ISA-L does not.
    if len(stream) < 6 or stream[0] != 0x78 or stream[1] & 0x20 or (stream[0] << 8 | stream[1]) % 31:
        return None
    # the object, not isal_zlib.decompress: only this one releases the interpreter lock
    inflater = isal.decompressobj()
    try:
        filtered = inflater.decompress(stream, n_bytes + 1)
    except isal.error:
        return None
    whole = inflater.eof and not inflater.unused_data and len(filtered) == n_bytes
    return filtered if whole else None


def unfilter(filtered: np.ndarray, pixels: np.ndarray, bpp: int) -> bool:
    """Undoes the filters of all rows (ISO/IEC 15948, section 9). Plain Python that numba compiles.

    Args:
        filtered: (H * (1 + N),) uint8, each row's filter type before its N bytes.
        pixels: (H, N) uint8, written.
        bpp: bytes per pixel, the distance to a byte's left neighbour.

    Returns:
        False if a row's filter type is none of the five; the pixels from that row on are then not written.
    """
    height, width = pixels.shape
    above = np.zeros(width, np.uint8)
    for y in range(height):
        start = y * (1 + width)
        kind = filtered[start]
        coded = filtered[start + 1 : start + 1 + width]
        row = pixels[y]
        if kind == NONE:
            row[:] = coded
        elif kind == SUB:
            for channel in range(bpp):
                left = 0
                for x in range(channel, width, bpp):
                    left = (np.int64(coded[x]) + left) & 255
                    row[x] = left
        elif kind == UP:
            np.add(coded, above, row)
        elif kind == AVERAGE:
            for channel in range(bpp):
                left = 0
                for x in range(channel, width, bpp):
                    left = (np.int64(coded[x]) + ((left + np.int64(above[x])) >> 1)) & 255
                    row[x] = left
        elif kind == PAETH:
            for channel in range(bpp):
                left, corner = 0, 0
                for x in range(channel, width, bpp):
                    # The standard's three distances as two comparisons, which compile to moves and not to jumps that a film's noise would mispredict:
                    # if the mirror image of left + up - corner in the corner lies at or above both neighbours, the lower one is nearest,
                    # at or below both the higher one, and between them the corner.
                    up = np.int64(above[x])
                    mirror = 3 * corner - up - left
                    low, high = min(left, up), max(left, up)
                    nearest = low if high <= mirror else corner
                    nearest = high if mirror <= low else nearest
                    left = (np.int64(coded[x]) + nearest) & 255
                    row[x] = left
                    corner = up
        else:
            return False
        above = row
    return True


def _of_unfilter(types: Any) -> Any:
    return types.boolean(types.Array(types.uint8, 1, "C", readonly=True), types.Array(types.uint8, 2, "C"), types.int64)


@cache
def _isal() -> ModuleType | None:
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib
