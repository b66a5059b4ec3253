"""RLE and lossless JPEG, the two packings of films that can be undone in a loop: every byte accounted for, and without the interpreter lock.

pylibjpeg takes seven times as long for lossless JPEG, panics at some damaged RLE, and holds the lock for both.
"""

import struct
from typing import Any

import numpy as np

from cxr.data.loops import compiled
from cxr.dicom import DicomError


def decode_rle(frame: bytes, rows: int, columns: int, samples: int, n_bytes: int) -> np.ndarray:
    """A frame of RLE (PS3.5 annex G): a segment for each byte of each sample, the upper byte first.

    Args:
        frame: with its header of 64 bytes.
        rows, columns, samples: pixels, and what each is made of.
        n_bytes: of a sample, 1 or 2.

    Returns:
        (rows, columns) or (rows, columns, samples) uint8 or uint16; DicomError if a segment does not unpack to just that.
    """
    if len(frame) < 64:
        raise DicomError("truncated: its RLE pixels have no header")
    n, *offsets = struct.unpack_from("<16I", frame)
    if n != samples * n_bytes or any(not 64 <= start <= len(frame) for start in offsets[:n]):
        raise DicomError("damaged: its RLE pixels have other segments than its header says")
    ends = [*offsets[1:n], len(frame)]
    unpack = compiled(unpack_bits, _of_unpack_bits) or unpack_bits
    data = np.frombuffer(frame, np.uint8)
    planes = np.empty((n, rows * columns), np.uint8)
    for plane, start, end in zip(planes, offsets[:n], ends, strict=True):
        if not unpack(data[start : max(start, end)], plane):
            raise DicomError("damaged: its RLE pixels unpack to another size than its header says")
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    return np.ascontiguousarray(planes.reshape(samples, n_bytes, -1)[:, ::-1].transpose(2, 0, 1)).view(f"<u{n_bytes}").reshape(shape)


def unpack_bits(packed: np.ndarray, out: np.ndarray) -> bool:
    """Undoes PackBits. Plain Python that numba compiles.

    Args:
        packed: (N,) uint8; zeros may follow its end.
        out: (M,) uint8, written.

    Returns:
        Whether it came to M bytes exactly.
    """
    at, filled = 0, 0
    while filled < len(out):
        if at + 1 >= len(packed):
            return False
        head = np.int64(packed[at])
        at += 1
        if head < 128:
            n = head + 1
            if at + n > len(packed) or filled + n > len(out):
                return False
            for i in range(n):
                out[filled + i] = packed[at + i]
            at, filled = at + n, filled + n
        elif head > 128:
            n = 257 - head
            if filled + n > len(out):
                return False
            for i in range(n):
                out[filled + i] = packed[at]
            at, filled = at + 1, filled + n
    for i in range(at, len(packed)):  # noqa: SIM110 (numba compiles loops)
        if packed[i] != 0:
            return False
    return True


def _of_unpack_bits(types: Any) -> Any:
    return types.boolean(types.Array(types.uint8, 1, "C", readonly=True), types.Array(types.uint8, 1, "C"))


def decode_lossless_jpeg(frame: bytes) -> np.ndarray | None:
    """Lossless JPEG (ISO/IEC 10918-1, annex H, process 14) of one grey component, 2 to 16 bits, any predictor, in one scan.

    Args:
        frame: from its first marker to its last.

    Returns:
        (H, W) uint16; None where another decoder has to be asked: another kind of JPEG, restarts, a point transform, or numba missing.

    Raises:
        DicomError: damaged.
    """
    end = frame.rfind(b"\xff\xd9")
    size, codes, at = None, None, 2
    while at + 4 <= end and frame[at] == 0xFF:
        kind, length = frame[at + 1], struct.unpack_from(">H", frame, at + 2)[0]
        body, at = frame[at + 4 : at + 2 + length], at + 2 + length
        if kind == 0xC3 and len(body) == 9 and body[5] == 1:
            size = struct.unpack_from(">BHH", body)
        elif kind == 0xC4 and codes is None and len(body) > 17:
            codes = _huffman_table(body)
        elif kind == 0xDA:
            if size is None or codes is None or len(body) != 6 or body[0] != 1 or not 1 <= body[3] <= 7 or body[4] or body[5]:
                return None
            loop = compiled(unpack_lossless, _of_unpack_lossless)
            if loop is None or not 2 <= size[0] <= 16:
                return None
            pixels = np.empty(size[1:], np.uint16)
            if not loop(np.frombuffer(frame, np.uint8, end - at, at), codes, pixels, size[0], body[3]):
                raise DicomError("damaged: its JPEG pixels unpack to another size than its header says")
            return pixels
        elif not (0xE0 <= kind <= 0xEF or kind == 0xFE):
            return None
    return None


def _huffman_table(body: bytes) -> np.ndarray | None:
    """(65536,) int32: for the 16 bits that come next, 256 times the length of the code that they begin with, plus the category it stands for; 0 is no code."""
    counts, symbols = body[1:17], body[17:]
    if body[0] & 0x0F > 3 or body[0] >> 4 or sum(counts) != len(symbols):
        return None
    table = np.zeros(65536, np.int32)
    code, at = 0, 0
    for length, count in enumerate(counts, start=1):
        for symbol in symbols[at : at + count]:
            if code >= 1 << length or symbol > 16:
                return None
            table[code << (16 - length) : (code + 1) << (16 - length)] = length << 8 | symbol
            code += 1
        at, code = at + count, code << 1
    return table


def unpack_lossless(coded: np.ndarray, codes: np.ndarray, pixels: np.ndarray, precision: int, predictor: int) -> bool:
    """Undoes the codes and the prediction of one scan. Plain Python that numba compiles.

    Args:
        coded: (N,) uint8, after the header of the scan and before the last marker.
        codes: from `_huffman_table`.
        pixels: (H, W) uint16, written.
        precision: bits of a sample.
        predictor: 1 to 7 (table H.1).

    Returns:
        Whether it came to H x W samples exactly.
    """
    height, width = pixels.shape
    at, n_bits, bits, beyond = 0, 0, 0, 0
    for y in range(height):
        left, corner = np.int64(0), np.int64(0)
        for x in range(width):
            while n_bits <= 32:
                byte = 0
                if at < len(coded):
                    byte = np.int64(coded[at])
                    at += 1
                    if byte == 255:
                        if at >= len(coded) or coded[at] != 0:
                            return False  # a marker
                        at += 1
                else:
                    beyond += 8
                bits = (bits << 8 | byte) & 0xFFFFFFFFFF
                n_bits += 8
            entry = codes[bits >> (n_bits - 16) & 0xFFFF]
            category = entry & 255
            n_bits -= entry >> 8
            difference = np.int64(0)
            if category == 16:
                difference = np.int64(32768)
            elif category > 0:
                n_bits -= category
                difference = bits >> n_bits & ((1 << category) - 1)
                if difference >> (category - 1) == 0:
                    difference -= (1 << category) - 1
            if entry == 0 or n_bits < beyond:
                return False
            if y == 0:
                predicted = left if x > 0 else np.int64(1) << (precision - 1)
            else:
                up = np.int64(pixels[y - 1, x])
                if x == 0 or predictor == 2:
                    predicted = up
                elif predictor == 1:
                    predicted = left
                elif predictor == 3:
                    predicted = corner
                elif predictor == 4:
                    predicted = left + up - corner
                elif predictor == 5:
                    predicted = left + ((up - corner) >> 1)
                elif predictor == 6:
                    predicted = up + ((left - corner) >> 1)
                else:
                    predicted = (left + up) >> 1
                corner = up
            left = (predicted + difference) & 0xFFFF
            if left >> precision:
                return False
            pixels[y, x] = left
    return at == len(coded) and n_bits - beyond < 8


def _of_unpack_lossless(types: Any) -> Any:
    readonly = types.Array(types.uint8, 1, "C", readonly=True)
    return types.boolean(readonly, types.Array(types.int32, 1, "C"), types.Array(types.uint16, 2, "C"), types.int64, types.int64)


def encode_lossless_jpeg(pixels: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    """(H, W) uint8 or uint16 to lossless JPEG; predictor 1, the left neighbour, is what archives hold.

    The code is not made for the film: a category takes 5 bits, and the last one 6.
    """
    values = pixels.astype(np.int64)
    left, up, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    inner = (left, up, corner, left + up - corner, left + ((up - corner) >> 1), up + ((left - corner) >> 1), (left + up) >> 1)
    predicted = np.empty_like(values)
    predicted[0, 0], predicted[0, 1:], predicted[1:, 0], predicted[1:, 1:] = 1 << (bits - 1), values[0, :-1], values[:-1, 0], inner[predictor - 1]
    difference = ((values - predicted + 32767) % 65536 - 32767).ravel()
    category = np.where(difference == 0, 0, np.floor(np.log2(np.maximum(1, abs(difference)))).astype(np.int64) + 1)
    extra = np.where(difference < 0, difference + (1 << category) - 1, difference)
    # canonical codes: sixteen categories of 5 bits each, and one more of 6
    length = np.where(category < 16, 5, 6)
    code = np.where(category < 16, category, 32)
    n_extra = np.where(category < 16, category, 0)
    width = length + n_extra
    word = code << n_extra | np.where(category < 16, extra, 0)
    column, pieces = np.arange(22), []
    for start in range(0, len(word), 1 << 16):  # a bit of every code at a time takes room
        some, widths = word[start : start + (1 << 16), None], width[start : start + (1 << 16), None]
        bit = (some >> np.maximum(0, widths - 1 - column)) & 1
        pieces.append(bit[column < widths].astype(np.uint8))
    pieces.append(np.ones(-int(width.sum()) % 8, np.uint8))
    stream = np.packbits(np.concatenate(pieces)).tobytes()
    counts = [0, 0, 0, 0, 16, 1, *[0] * 10]
    table = bytes([0, *counts, *range(17)])
    height, across = pixels.shape
    return b"".join(
        [
            b"\xff\xd8\xff\xc4" + struct.pack(">H", 2 + len(table)) + table,
            b"\xff\xc3" + struct.pack(">HBHHBBBB", 11, bits, height, across, 1, 1, 0x11, 0),
            b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, predictor, 0, 0),
            stream.replace(b"\xff", b"\xff\x00"),
            b"\xff\xd9",
        ]
    )
