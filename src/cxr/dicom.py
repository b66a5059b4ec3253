"""The header of a DICOM file: the elements that are asked for, and nothing else of it; and films written as DICOM.

Headers name people. Only elements that a caller lists become values, and no message quotes one; pydicom's own do, and are kept from console and log.
pydicom is loaded by the first DICOM film, never by an import: where all films are PNG it need not be installed.
"""

import hashlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# the decoders behind pydicom among them: found missing by the first compressed film, they would put every one of them into the quarantine
PACKAGES = {"pydicom": "pydicom", "pylibjpeg": "pylibjpeg", "libjpeg": "pylibjpeg-libjpeg", "openjpeg": "pylibjpeg-openjpeg", "rle": "pylibjpeg-rle"}
SUFFIXES = (".dcm", ".dicom")  # in small letters
# of a file that is deflated as a whole, unpacked
MAX_BYTES = 1 << 28

PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # of floats, of doubles, of integers


class DicomError(ValueError):
    """A file that is no readable DICOM film; the message is the reason, without the path, and without a value of its header that could name a person."""


class MissingPackageError(RuntimeError):
    """DICOM films are there, and what reads them is not installed."""


@contextmanager
def damage(told: str) -> Iterator[None]:
    """What pydicom raises inside becomes a DicomError: that is nearly everything, and may quote the header."""
    try:
        yield
    except (DicomError, MemoryError, TimeoutError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; pydicom has some of its own
            raise
        raise DicomError(f"damaged: {told} ({type(error).__name__})") from None


@cache
def load() -> ModuleType:
    """pydicom, made silent; MissingPackageError, with the command that installs it."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingPackageError(f"DICOM films need {', '.join(missing)}, which is not installed: pip install -e '.[dicom]' (in the project's folder)")
    import pydicom
    import pydicom.config
    import pydicom.encaps
    import pydicom.pixels

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return pydicom


def read_header(file: Any, keywords: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """Reads a file up to its pixels.

    Args:
        file: binary, at its beginning.
        keywords: of the elements to read, as DICOM spells them ("Rows"); others are skipped, not kept.

    Returns:
        (pydicom Dataset of those that are there, transfer syntax UID, a file at the element of the pixels or at the end: the same one, or an io.BytesIO of what
        was in it deflated).

    Raises:
        DicomError: no DICOM file, or a damaged header.
    """
    pydicom = load()
    start = file.read(132)
    if not start:
        raise DicomError("the file is empty")
    if start[128:] != b"DICM":
        raise DicomError("not a DICOM file")
    read = pydicom.filereader.read_dataset
    with damage("its header cannot be read"):
        meta = read(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2, specific_tags=_tags(("TransferSyntaxUID",)))
        syntax = pydicom.uid.UID(meta.get("TransferSyntaxUID") or "")
        if not syntax.is_transfer_syntax:
            raise DicomError("its transfer syntax is missing or unknown")
        if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
            file = _inflate(file)
        header = read(file, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=lambda tag, vr, length: tag in PIXELS, specific_tags=_tags(keywords))
    return header, syntax, file


@cache
def _tags(keywords: tuple[str, ...]) -> list[Any]:
    return [load().tag.Tag(keyword) for keyword in keywords]


def _inflate(file: Any) -> io.BytesIO:
    """All that follows, which zlib has packed: pydicom would unpack whatever it comes to."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(file.read(MAX_BYTES + 1), MAX_BYTES + 1)
    except zlib.error:
        raise DicomError("damaged: it cannot be inflated") from None
    if len(content) > MAX_BYTES:
        raise DicomError(f"larger than any film: more than {MAX_BYTES >> 20} MB when inflated")
    if not inflater.eof:
        raise DicomError("truncated: its deflated content has no end")
    return io.BytesIO(content)


def text(header: Any, keyword: str) -> str:
    """A text element without spaces around it; "" where it is not there or has several values."""
    value = _value(header, keyword)
    return str(value).strip() if isinstance(value, str) else ""


def word(header: Any, keyword: str) -> str:
    """The same in capitals: a defined term."""
    return text(header, keyword).upper()


def number(header: Any, keyword: str, default: float | None = None) -> float | None:
    """The number, or the first of several; the default where the element is missing or empty; DicomError where it is no finite number."""
    value = numbers(header, keyword)
    return value[0] if value else default


def numbers(header: Any, keyword: str) -> list[float]:
    """All numbers of an element, none where it is missing or empty; DicomError where one is not finite."""
    value = _value(header, keyword)
    if value is None or value == "" or value == b"":
        return []
    with damage(f"{keyword} is no number"):
        found = [float(part) for part in (value if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value])]
    if not all(abs(part) < 1e300 for part in found):
        raise DicomError(f"damaged: {keyword} is no finite number")
    return found


def item(header: Any, keyword: str) -> Any | None:
    """The first item of a sequence, or None."""
    value = _value(header, keyword)
    with damage(f"{keyword} is no sequence"):
        return value[0] if value else None


def _value(header: Any, keyword: str) -> Any:
    with damage(f"{keyword} cannot be read"):
        return header.get(keyword)


def film_bytes(
    pixels: Any, *, bits: int, syntax: str = "1.2.840.10008.1.2.1", frame: bytes | None = None, photometric: str = "MONOCHROME2", **elements: Any
) -> bytes:
    """A chest film as a DICOM file.

    Args:
        pixels: (H, W) or (H, W, 3) uint8, or (H, W) uint16 or int16.
        bits: how many of them mean something.
        syntax: transfer syntax UID: any that is not compressed, RLE, or JPEG 2000 lossless; or that of `frame`.
        frame: the pixels compressed already.
        photometric: what the pixels mean.
        elements: of the header, by keyword; None leaves one of these out: Modality "DX", BodyPartExamined "CHEST".

    Returns:
        The content of the file.
    """
    pydicom = load()
    film = pydicom.Dataset()
    film.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[hashlib.sha256(pixels.tobytes()).hexdigest()])  # the same film has the same bytes
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    film.set_pixel_data(pixels, photometric, bits)
    for keyword, value in ({"Modality": "DX", "BodyPartExamined": "CHEST"} | elements).items():
        if value is not None:
            setattr(film, keyword, value)
    uid = pydicom.uid.UID(syntax)
    if frame is not None:
        film.PixelData = pydicom.encaps.encapsulate([frame])
        film["PixelData"].VR, film["PixelData"].is_undefined_length = "OB", True
    elif uid.is_encapsulated:
        film.compress(uid, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    elif not uid.is_little_endian:
        film.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    film.file_meta.TransferSyntaxUID = uid
    out = io.BytesIO()
    film.save_as(out, enforce_file_format=True)
    return out.getvalue()
