"""Is this JPEG whole, and no larger than a film? A decoder fills what is missing with grey and says nothing.

JPEG has no checksums: damage within cannot be seen.
"""

import struct

from cxr.data.png import MAX_BYTES, MAX_SIDE, DecodeError

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
# frames of any coding: SOF0 to SOF15 without the tables DHT, JPG and DAC among them (ISO/IEC 10918-1, B.1.1.3)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA


def require_jpeg(data: bytes) -> None:
    """Raises DecodeError with the reason, unless the file has a frame of a film's size and ends as a JPEG does.

    Args:
        data: a file that begins with SIGNATURE.
    """
    at, is_framed = 2, False
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise DecodeError(f"damaged: no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            if not (height and width) or max(height, width) > MAX_SIDE or height * width > MAX_BYTES:
                raise DecodeError(f"{width} x {height} pixels, which is no film")
            is_framed = True
        if marker == START_OF_SCAN:
            break
        at += 2 + length
    if not is_framed or at + 4 > len(data) or not data.rstrip(b"\0").endswith(END):
        raise DecodeError(f"truncated after {len(data)} bytes")
