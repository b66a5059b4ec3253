"""A DICOM film to grey: the stored values through the modality and the window of its own header, 8 bits, dark where X-rays passed, square pixels.

What the header says of pixels is one table from stored bits to grey, so that no pixel is computed with (PS3.3 C.7.6.3, C.11.1 modality, C.11.2 VOI).
A file that is no single chest radiograph is refused, with the reason.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cxr.data.dicom_streams import decode_lossless_jpeg, decode_rle
from cxr.data.png import MAX_BYTES, MAX_SIDE
from cxr.dicom import DicomError, damage, item, load, number, numbers, read_header, word

# Raised whenever the same file would give other pixels.
VERSION = 1

# Radiographs; or what converters write who do not know. An empty modality says as little as OTHER does.
MODALITIES = frozenset({"CR", "DX", "DR", "RG", "OT", ""})
# A body part that has one of these in it shows a chest. "THORACIC SPINE" has not.
CHEST = ("CHEST", "THORAX", "TORAX", "LUNG")
# Defined terms (PS3.16 annex L) that a reason may repeat; anything else might be free text, which may name a person.
BODY_PARTS = frozenset(
    {
        *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS"),
        *("JAW", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "RIB", "SHOULDER", "SKULL", "SPINE", "STERNUM", "THUMB", "TOE", "TSPINE", "WRIST"),
    }
)

# vertical distance of pixels, then horizontal
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
KEYWORDS = (
    *("Modality", "BodyPartExamined", "NumberOfFrames", "Rows", "Columns", *SPACINGS),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape"),
)
MAX_ASPECT = 10.0
# scanners round their spacings
SAME_ASPECT = 0.01

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
PLAIN = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
RLE = "1.2.840.10008.1.2.5"
LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
# baseline, extended, lossless; JPEG-LS, lossless and nearly so
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", *LOSSLESS_JPEG, "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

# of JPEG 2000, each of which costs the decoder memory: a film of 8,192 pixels in squares of 64
MAX_TILES = 1 << 14


@dataclass(frozen=True)
class Layout:
    """How pixels are stored.

    Attributes:
        rows, columns: pixels.
        samples: 1 (grey) or 3 (colour).
        photometric: DICOM's word for what they mean.
        planar: colours apart, not pixel by pixel.
        allocated: bits that a sample takes in the file, 8 or 16.
        bits, high: how many of them mean something, and the number of the highest.
        signed: two's complement.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: bool
    allocated: int
    bits: int
    high: int
    signed: bool

    @property
    def n_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.allocated // 8


def decode_dicom(data: bytes, window: str) -> np.ndarray:
    """Reads one film.

    Args:
        data: the file.
        window: "voi" looks through the film's first VOI table, or else its first window, or else as "full"; "full" spreads all its values over the greys: from
            its darkest pixel to its brightest, or, of a film with up to 8 bits, from the least value that these can hold to the greatest.

    Returns:
        (H, W) uint8 of square pixels, bright where the body stopped the rays; what is padding is black.

    Raises:
        DicomError: with the reason, which repeats nothing of the header that could name a person.
    """
    file = io.BytesIO(data)
    header, syntax, inner = read_header(file, KEYWORDS)
    require_chest_film(header)
    layout = read_layout(header)
    raw, photometric = read_pixels(memoryview(data if inner is file else inner.getvalue())[inner.tell() :], syntax, layout)
    if layout.samples == 3:
        # the first channel of YBR is the luminance
        grey = np.ascontiguousarray(raw[..., 0]) if photometric.startswith("YBR") else cv2.cvtColor(raw, cv2.COLOR_RGB2GRAY)
    else:
        grey = look_up(grey_table(header, layout, raw, window, big_endian=syntax == BIG_ENDIAN), raw)
    return square_pixels(grey, aspect(header))


def require_chest_film(header: Any) -> None:
    """Raises DicomError for what the header says is no radiograph of a chest. A header that says nothing is believed to be one."""
    modality, part = word(header, "Modality"), word(header, "BodyPartExamined")
    if modality not in MODALITIES:
        # a code has two letters; anything else might be free text
        raise DicomError(f"not a radiograph: its modality is {modality}" if len(modality) == 2 and modality.isalpha() else "not a radiograph")
    letters = "".join(letter for letter in part if letter.isalpha())
    if letters and not any(chest in letters for chest in CHEST):
        raise DicomError(f"not a chest: its body part is {letters}" if letters in BODY_PARTS else "not a chest: its header names another body part")


def read_layout(header: Any) -> Layout:
    """How the pixels are stored; DicomError unless it is one frame, of a film's size, of a kind that is read here."""

    def whole(keyword: str, default: int | None = None) -> int:
        value = number(header, keyword, default)
        if value is None or value != int(value):
            raise DicomError(f"its header says no {keyword}")
        return int(value)

    if number(header, "NumberOfFrames", 1) != 1:
        raise DicomError("several frames, which is no film")
    rows, columns, samples, allocated = whole("Rows"), whole("Columns"), whole("SamplesPerPixel", 1), whole("BitsAllocated")
    bits = whole("BitsStored", allocated)
    high, signed = whole("HighBit", bits - 1), whole("PixelRepresentation", 0)
    photometric, planar = word(header, "PhotometricInterpretation"), whole("PlanarConfiguration", 0)

    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and rows * columns * 4 <= MAX_BYTES):
        raise DicomError(f"no film has its size: {columns} x {rows} pixels")
    grey, colour = photometric in ("MONOCHROME1", "MONOCHROME2"), photometric in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
    if not ((grey and samples == 1) or (colour and samples == 3)):
        raise DicomError("its pixels are neither grey nor RGB or YBR colours")
    if not (0 < bits <= allocated and bits <= high + 1 <= allocated and signed in (0, 1) and allocated in ((8, 16) if grey else (8,))):
        raise DicomError(f"its pixels have {bits} of {allocated} bits, the highest {high}: only 8 or 16 are read, of colours 8")
    return Layout(rows, columns, samples, photometric, planar == 1 and samples == 3, allocated, bits, high, bool(signed))


# --- pixels -----------------------------------------------------------------------------------------------------------------------------------------


def read_pixels(content: memoryview, syntax: str, layout: Layout) -> tuple[np.ndarray, str]:
    """The stored bits as they are.

    Args:
        content: the file from the element of the pixels on.
        syntax: transfer syntax UID.

    Returns:
        ((H, W) uint8 or uint16, or (H, W, 3) uint8; what their colours mean now that they are unpacked).
    """
    if syntax not in (*PLAIN, *JPEG_2000, *JPEG, RLE):
        raise DicomError("its pixels are compressed in a way that is not read here")
    order = ">" if syntax == BIG_ENDIAN else "<"
    size = 8 if syntax == IMPLICIT else 12
    if len(content) < size:
        raise DicomError("it has no pixels")
    group, element, representation = struct.unpack_from(order + "HH2s", content)
    length = struct.unpack_from(order + "I", content, size - 4)[0]
    if (group, element) != (0x7FE0, 0x0010):
        raise DicomError("its pixels are no integers")
    content = content[size:]
    if syntax not in PLAIN:
        return _decompress(content, syntax, layout)
    if length == 0xFFFFFFFF:
        raise DicomError("damaged: it says that its pixels are not compressed, and packs them")
    if length > len(content) or length < layout.n_bytes:
        raise DicomError(f"truncated: {min(length, len(content)):,} of {layout.n_bytes:,} bytes of pixels")
    # an odd number of bytes is made even, and some writers fill up to four; a row more is another size than the header says
    if length - layout.n_bytes >= max(4, layout.n_bytes // layout.rows):
        raise DicomError(f"damaged: {length:,} bytes of pixels where its size makes {layout.n_bytes:,}")
    swapped = order == ">" and (layout.allocated == 16 or representation == b"OW")  # of 8 bits, words of two pixels are
    if swapped:
        pixels = np.frombuffer(content, ">u2", -(-layout.n_bytes // 2)).astype("<u2").view(f"<u{layout.allocated // 8}")
    else:
        pixels = np.frombuffer(content, f"<u{layout.allocated // 8}", layout.n_bytes * 8 // layout.allocated)
    if layout.samples == 1:
        return pixels[: layout.rows * layout.columns].reshape(layout.rows, layout.columns), layout.photometric
    if layout.photometric not in ("RGB", "YBR_FULL"):
        raise DicomError("its colours are kept in a way that is not read here")
    pixels = pixels[: layout.n_bytes]
    if layout.planar:
        return np.ascontiguousarray(pixels.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)), layout.photometric
    return pixels.reshape(layout.rows, layout.columns, 3), layout.photometric


def _decompress(content: memoryview, syntax: str, layout: Layout) -> tuple[np.ndarray, str]:
    frame = joined_fragments(content)
    if syntax == RLE:
        return decode_rle(frame, layout.rows, layout.columns, layout.samples, layout.allocated // 8), layout.photometric
    _require_stream(frame, syntax, layout)
    if syntax in JPEG_2000 and layout.samples == 1 and not layout.signed:
        # the same decoder as pylibjpeg's, with the same result, but without the interpreter lock: threads decode side by side
        pixels = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.shape == (layout.rows, layout.columns) and pixels.dtype.itemsize * 8 == layout.allocated:
            return pixels, layout.photometric
    if syntax in LOSSLESS_JPEG and layout.samples == 1:
        pixels = decode_lossless_jpeg(frame)
        if pixels is not None:
            if layout.allocated == 8 and pixels.max() > 255:
                raise DicomError("damaged: its compressed pixels have more bits than its header says")
            return pixels.astype(f"<u{layout.allocated // 8}", copy=False), layout.photometric
    pydicom = load()
    with damage("its pixels cannot be unpacked"):
        decoder = pydicom.pixels.get_decoder(syntax)
        # one decoder by name: another would round otherwise
        pixels, meta = decoder.as_array(pydicom.encaps.encapsulate([frame]), index=0, raw=True, decoding_plugin="pylibjpeg", **_options(layout))
    expected = (layout.rows, layout.columns) if layout.samples == 1 else (layout.rows, layout.columns, 3)
    if pixels.shape != expected or pixels.dtype.itemsize * 8 != layout.allocated:
        raise DicomError("damaged: its pixels unpack to another size than its header says")
    return pixels.view(f"<u{layout.allocated // 8}"), str(meta["photometric_interpretation"])


def joined_fragments(content: memoryview) -> bytes:
    """The one compressed frame: all fragments (PS3.5 A.4) after the table of offsets, which one frame does not need."""
    fragments, at = [], 0
    while at + 8 <= len(content):
        group, element, length = struct.unpack_from("<HHI", content, at)
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return b"".join(fragments[1:])
        if (group, element) != (0xFFFE, 0xE000):
            raise DicomError("damaged: its compressed pixels are not in fragments")
        fragments.append(content[at : at + length])
        at += length
    raise DicomError("truncated: its compressed pixels have no end")


def _options(layout: Layout) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": int(layout.planar),
        "bits_allocated": layout.allocated,
        "bits_stored": layout.bits,
        "pixel_representation": int(layout.signed),
        "pixel_keyword": "PixelData",
        "number_of_frames": 1,
    }


def _require_stream(frame: bytes, syntax: str, layout: Layout) -> None:
    """Raises DicomError unless a JPEG of any kind claims the size that the header claims, and has its end: decoders believe the one and forgive the other."""
    found = _size_in_jpeg_2000(frame) if syntax in JPEG_2000 else _size_in_jpeg(frame)
    if found != (layout.rows, layout.columns, layout.samples):
        raise DicomError("damaged: its compressed pixels have another size than its header says, or none")
    if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # whichever of the two makes its length even
        raise DicomError("truncated: its compressed pixels have no end")


def _size_in_jpeg_2000(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) from the first markers (ISO/IEC 15444-1, A.5.1)."""
    if len(frame) < 42 or not frame.startswith(b"\xff\x4f\xff\x51"):
        return None
    right, bottom, left, top, tile_width, tile_height, _, _, components = struct.unpack_from(">8IH", frame, 8)
    tiles = -(-right // max(1, tile_width)) * -(-bottom // max(1, tile_height))
    return (bottom - top, right - left, components) if tiles <= MAX_TILES else None


def _size_in_jpeg(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) from the frame header (ISO/IEC 10918-1, B.2.2; JPEG-LS has one of its own number)."""
    at = 2
    if not frame.startswith(b"\xff\xd8"):
        return None
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        kind = frame[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            rows, columns, components = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, components
        else:
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


# --- grey -------------------------------------------------------------------------------------------------------------------------------------------


def grey_table(header: Any, layout: Layout, raw: np.ndarray, window: str, *, big_endian: bool = False) -> np.ndarray:
    """What grey each pattern of bits becomes.

    Args:
        raw: (H, W) uint8 or uint16, the film, whose values are looked at where they set the range.
        window: see `decode_dicom`.

    Returns:
        (256,) or (65536,) uint8.
    """
    n = 2 ** (layout.high + 1)
    stored = np.arange(n) >> (layout.high + 1 - layout.bits)
    if layout.signed:
        stored[stored >= 2 ** (layout.bits - 1)] -= 2**layout.bits
    padding = _padding(header, stored, layout)
    order = ">" if big_endian else "<"
    values = modality_values(header, stored, layout, order)
    table, centres = (item(header, "VOILUTSequence"), numbers(header, "WindowCenter")) if window == "voi" else (None, [])
    if table is not None:
        entries, first, top = read_lut(table, layout.signed, order)
        share = entries[np.clip(np.round(values) - first, 0, len(entries) - 1).astype(int)] / top
    elif centres:
        share = windowed(values, centres[0], number(header, "WindowWidth"), word(header, "VOILUTFunction"))
    else:
        share = spread(values, values if layout.bits <= 8 else values[_present(raw, n) & ~padding])
    grey = np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)
    # a DX film says both of these, and means one
    if layout.photometric == "MONOCHROME1" or word(header, "PresentationLUTShape") == "INVERSE":
        grey = 255 - grey
    grey[padding] = 0
    return np.tile(grey, 2**layout.allocated // n)


def _present(raw: np.ndarray, n: int) -> np.ndarray:
    """(n,) bool: which patterns of the lower bits occur in the film."""
    counts = cv2.calcHist([raw], [0], None, [65536 if raw.dtype == np.uint16 else 256], [0, 65536 if raw.dtype == np.uint16 else 256])
    present: np.ndarray = (counts.reshape(-1, n) > 0).any(axis=0)
    return present


def _padding(header: Any, stored: np.ndarray, layout: Layout) -> np.ndarray:
    value = number(header, "PixelPaddingValue")
    if value is None:
        return np.zeros(len(stored), bool)
    limit = number(header, "PixelPaddingRangeLimit", value)

    def of_layout(value: float) -> float:  # the element may be written as of the other sign
        return (value + 2 ** (layout.bits - 1)) % 2**layout.bits - 2 ** (layout.bits - 1) if layout.signed else value % 2**layout.bits

    low, high = sorted((of_layout(value), of_layout(value if limit is None else limit)))
    padding: np.ndarray = (stored >= low) & (stored <= high)
    return padding


def modality_values(header: Any, stored: np.ndarray, layout: Layout, order: str = "<") -> np.ndarray:
    """(n,) stored values to (n,) float64 values of the modality: by its table where there is one, else by slope and intercept (PS3.3 C.11.1)."""
    table = item(header, "ModalityLUTSequence")
    if table is not None:
        entries, first, _ = read_lut(table, layout.signed, order)
        return entries[np.clip(stored - first, 0, len(entries) - 1).astype(int)]
    slope, intercept = number(header, "RescaleSlope", 1), number(header, "RescaleIntercept", 0)
    if not slope or intercept is None:
        raise DicomError("damaged: its rescale slope is 0")
    return stored * slope + intercept


def read_lut(table: Any, signed: bool, order: str) -> tuple[np.ndarray, int, int]:
    """((n,) float64 entries, the value that the first one stands for, the greatest that one may be) of an item with a look-up table (PS3.3 C.11.1.1)."""
    descriptor = numbers(table, "LUTDescriptor")
    if len(descriptor) != 3 or not all(value == int(value) for value in descriptor) or not 1 <= descriptor[2] <= 16:
        raise DicomError("damaged: its look-up table has no descriptor")
    n, first, bits = (int(value) for value in descriptor)
    n = n % 65536 or 65536
    if signed and first >= 32768:
        first -= 65536
    with damage("its look-up table cannot be read"):
        data = table.get("LUTData")
        if isinstance(data, bytes):
            entries = np.frombuffer(data, order + "u2" if len(data) >= 2 * n else "u1")
        else:
            entries = np.array(data, ndmin=1).astype(np.int64) % 65536
    if not n <= len(entries) <= n + 1 or entries.ndim != 1:
        raise DicomError(f"damaged: its look-up table has {entries.size} entries, and says {n}")
    return entries[:n].astype(np.float64), first, 2**bits - 1


def windowed(values: np.ndarray, centre: float, width: float | None, function: str) -> np.ndarray:
    """(n,) values to (n,) shares of the full brightness, 0 to 1 where they lie in the window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function not in ("", "LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise DicomError("its window has a shape that is not known")
    exact = function in ("LINEAR_EXACT", "SIGMOID")
    if width is None or not (width > 0 if exact else width >= 1):
        raise DicomError("its window has no width (data.dicom_window=full goes without it)")
    if function == "SIGMOID":
        share: np.ndarray = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
        return share
    if exact:
        return (values - centre) / width + 0.5
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def spread(values: np.ndarray, over: np.ndarray) -> np.ndarray:
    """(n,) values to shares of the range of others; black where these are all one value, or none."""
    low, high = (over.min(), over.max()) if len(over) else (0.0, 0.0)
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def look_up(table: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """(H, W) patterns of bits to (H, W) uint8 grey."""
    if len(table) == 256 and np.array_equal(table, np.arange(256)):
        return raw
    try:
        return cv2.LUT(raw, table)
    except cv2.error:  # OpenCV before 4.13 has no tables for 16 bits
        return np.take(table, raw)


# --- shape ------------------------------------------------------------------------------------------------------------------------------------------


def aspect(header: Any) -> float:
    """How many times as high as wide a pixel is; 1 where the header does not say."""
    for keyword in SPACINGS:
        spacing = numbers(header, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            ratio = spacing[0] / spacing[1]
            if not 1 / MAX_ASPECT <= ratio <= MAX_ASPECT:
                raise DicomError("its pixels are more than ten times as long as wide, or as wide as long")
            return ratio if abs(ratio - 1) > SAME_ASPECT else 1.0
    return 1.0


def square_pixels(grey: np.ndarray, ratio: float) -> np.ndarray:
    """(H, W) uint8 of pixels `ratio` times as high as wide to square ones of the longer side: the other side is averaged over areas."""
    if ratio == 1:
        return grey
    rows, columns = grey.shape
    width, height = (max(1, round(columns / ratio)), rows) if ratio > 1 else (columns, max(1, round(rows * ratio)))
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
