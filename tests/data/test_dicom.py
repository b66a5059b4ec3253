"""Mirrors data/dicom.py. The oracles are the PNG of the same film, pydicom's own modality and VOI functions, and real DICOM films (pydicom-data)."""

import io
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from commands import absent
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from cxr import dicom
from cxr.data.decode import USUAL, DecodeError, Reading, decode
from cxr.data.dicom_streams import encode_lossless_jpeg
from cxr.data.store import build_store
from cxr.dicom import film_bytes

EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG_2000, RLE, JPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70"
SYNTAXES = [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, RLE, JPEG_2000, JPEG]
GREY = (np.add.outer(np.arange(64), 3 * np.arange(64)) % 256).astype(np.uint8)
FULL = Reading(dicom_window="full")


def film(pixels: np.ndarray, *, bits: int, syntax: str = EXPLICIT, **elements) -> bytes:
    """A DICOM file; lossless JPEG is packed here."""
    frame = encode_lossless_jpeg(pixels.view(f"u{pixels.itemsize}") & (2**bits - 1), bits) if syntax == JPEG else None
    return film_bytes(pixels, bits=bits, syntax=syntax, frame=frame, **elements)


@pytest.fixture
def read(tmp_path: Path):
    """The row of the store that a DICOM file becomes."""

    def write(content: bytes, size: int = 64, reading: Reading = USUAL) -> np.ndarray:
        path = tmp_path / "film.dcm"
        path.write_bytes(content)
        return decode(path, size, reading)

    return write


@pytest.fixture(scope="module")
def published() -> Path:
    """Real DICOM films: a chest (RG1) and a leg (RG3) in several encodings."""
    found = find_spec("data_store")
    if found is None or not found.submodule_search_locations:
        absent("REAL MATERIAL ABSENT: pydicom-data is not installed")
    return Path(found.submodule_search_locations[0]) / "data"


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """PNG films with shades and grain, one of them wider than high."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i:08d}_000.png" for i in range(3)]
    for path, shape in zip(paths, [(128, 128), (96, 130), (128, 128)], strict=True):
        shades = cv2.resize(rng.uniform(0, 255, (6, 6)), shape[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), np.clip(shades + rng.normal(0, 2, shape), 0, 255).astype(np.uint8))
    return paths


# --- a DICOM copy of a PNG film -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_eight_bits_without_a_window_give_the_row_of_the_png_bit_for_bit(films: list[Path], read, syntax: str) -> None:
    for path in films:
        content = film(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), bits=8, syntax=syntax)
        for reading in (Reading(), FULL, Reading(fit="crop")):
            np.testing.assert_array_equal(read(content, 32, reading), decode(path, 32, reading))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_with_a_slope_and_a_window_that_lead_back_are_within_one_level(films: list[Path], read, syntax: str, signed: bool) -> None:
    pixels = cv2.imread(str(films[1]), cv2.IMREAD_GRAYSCALE)
    stored = pixels.astype(np.int32) * 16 + np.random.default_rng(0).integers(0, 16, pixels.shape)
    values = (stored - 2048).astype(np.int16) if signed else stored.astype(np.uint16)
    # to half units, -1024 to 1023.5, and a window over all of them
    content = film(values, bits=12, syntax=syntax, RescaleSlope="0.5", RescaleIntercept="0" if signed else "-1024", WindowCenter="0", WindowWidth="2048")
    assert abs(read(content, 32).astype(int) - decode(films[1], 32)).max() <= 1


def test_real_films_equal_their_png_bit_for_bit_whatever_they_are_packed_in(real: Path, read) -> None:
    for path in sorted((real / "data/cxr14_1024/images").iterdir())[3:9:2]:
        pixels = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
        for syntax in (EXPLICIT, RLE, JPEG):
            np.testing.assert_array_equal(read(film(pixels, bits=8, syntax=syntax), 256), decode(path, 256))


def test_eight_bits_in_words_of_the_other_byte_order_are_put_right(read) -> None:
    film = pydicom.dcmread(io.BytesIO(film_bytes(GREY, bits=8, syntax=BIG_ENDIAN)))
    film["PixelData"].VR = "OW"
    film.PixelData = GREY.reshape(-1, 2)[:, ::-1].tobytes()
    out = io.BytesIO()
    film.save_as(out)
    np.testing.assert_array_equal(read(out.getvalue()), GREY)


# --- what the header says of the pixels ---------------------------------------------------------------------------------------------------------------


def test_monochrome1_and_presentation_inverse_are_turned_round_once(read) -> None:
    for elements in ({"photometric": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}, {"photometric": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}):
        np.testing.assert_array_equal(read(film_bytes(GREY, bits=8, **elements)), 255 - GREY)
    np.testing.assert_array_equal(read(film_bytes(GREY, bits=8, PresentationLUTShape="IDENTITY")), GREY)


WINDOWS = {
    "linear": {"WindowCenter": "1900.5", "WindowWidth": "900"},
    "linear exact": {"WindowCenter": "1900.5", "WindowWidth": "900.5", "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": "2000", "WindowWidth": "700", "VOILUTFunction": "SIGMOID"},
    "the first of two": {"WindowCenter": ["1500", "3000"], "WindowWidth": ["2000", "10"]},
    "a slope": {"WindowCenter": "-100", "WindowWidth": "300", "RescaleSlope": "0.25", "RescaleIntercept": "-500"},
    "narrow": {"WindowCenter": "2000", "WindowWidth": "1"},
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_those_of_pydicom_within_one_level(read, name: str, signed: bool) -> None:
    values = (np.arange(4096).reshape(64, 64) - 2048 * signed).astype(np.int16 if signed else np.uint16)
    # signed values lie 2048 lower, and so do what their slope makes of them and the windows
    moved = {"RescaleSlope": "1", "RescaleIntercept": "2048"} if signed and name != "a slope" else {}
    content = film_bytes(values, bits=12, **WINDOWS[name], **moved)
    film = pydicom.dcmread(io.BytesIO(content))
    shown = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film)
    # pydicom's result is in units of the modality, from the least value that 12 bits can give to the greatest
    ends = apply_modality_lut(np.array([-2048, 2047] if signed else [0, 4095]), film)
    expected = (shown - ends[0]) / (ends[1] - ends[0]) * 255
    assert abs(read(content).astype(float) - expected).max() <= 0.51
    assert len(np.unique(expected.round())) > 1


def lut(entries: np.ndarray, first: int, bits: int) -> pydicom.Sequence:
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return pydicom.Sequence([table])


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_tables_of_modality_and_voi_are_those_of_pydicom(read, syntax: str) -> None:
    values = np.arange(4096).reshape(64, 64).astype(np.uint16)
    curve = (np.linspace(0, 1, 3000) ** 2 * 65535).astype(np.uint16)
    voi = film_bytes(values, bits=12, syntax=syntax, VOILUTSequence=lut(curve, 500, 16), WindowCenter="7", WindowWidth="7")
    expected = apply_voi_lut(values, pydicom.dcmread(io.BytesIO(voi))) / 65535 * 255
    assert abs(read(voi) - expected).max() <= 0.51
    modality = film_bytes(values, bits=12, syntax=syntax, ModalityLUTSequence=lut(curve, 500, 16), WindowCenter="32768", WindowWidth="65536")
    film = pydicom.dcmread(io.BytesIO(modality))
    expected = apply_modality_lut(values, film) / 65535 * 255
    assert abs(read(modality) - expected).max() <= 0.51
    # without its window a film goes from its darkest pixel to its brightest
    np.testing.assert_array_equal(read(voi, reading=FULL), np.floor(values / 4095 * 255 + 0.5))


def test_a_film_of_more_than_eight_bits_without_a_window_goes_from_its_darkest_pixel_to_its_brightest(read) -> None:
    values = (np.arange(64 * 64).reshape(64, 64) % 1000 + 300).astype(np.uint16)
    expected = np.floor((values - 300) / 999 * 255 + 0.5)
    np.testing.assert_array_equal(read(film_bytes(values, bits=16)), expected)
    np.testing.assert_array_equal(read(film_bytes(values, bits=16, WindowCenter="500", WindowWidth="10"), reading=FULL), expected)
    np.testing.assert_array_equal(read(film_bytes(values, bits=16, RescaleSlope="-2", RescaleIntercept="9")), np.floor((1299 - values) / 999 * 255 + 0.5))
    assert not read(film_bytes(np.full((64, 64), 700, np.uint16), bits=16)).any()  # one value: nothing to see


def test_padding_is_black_and_sets_no_range(read) -> None:
    values = np.random.default_rng(0).integers(300, 1300, (64, 64)).astype(np.uint16)
    values[0, :2] = 300, 1299
    padded = values.copy()
    padded[:, :8], padded[:, -8:] = 4095, 4090
    shown = read(film_bytes(padded, bits=12, photometric="MONOCHROME1", PixelPaddingValue=4095, PixelPaddingRangeLimit=4090))
    whole = read(film_bytes(np.where(padded > 4000, 1299, padded).astype(np.uint16), bits=12, photometric="MONOCHROME1"))
    assert not shown[:, :8].any()
    assert not shown[:, -8:].any()
    np.testing.assert_array_equal(shown[:, 8:-8], whole[:, 8:-8])


@pytest.mark.parametrize(("allocated", "bits", "high"), [(16, 10, 9), (16, 10, 13), (8, 6, 5), (16, 8, 15)])
def test_only_the_stored_bits_count_wherever_they_lie(read, allocated: int, bits: int, high: int) -> None:
    stored = np.random.default_rng(0).integers(0, 2**bits, (64, 64))
    stored[0, :2] = 0, 2**bits - 1
    # old films keep overlays in the other bits
    other = np.random.default_rng(1).integers(0, 2**allocated, (64, 64)) & ~((2**bits - 1) << (high + 1 - bits))
    raw = (stored << (high + 1 - bits) | other).astype(np.uint16 if allocated == 16 else np.uint8)
    content = film_bytes(raw, bits=allocated, BitsStored=bits, HighBit=high)
    np.testing.assert_array_equal(read(content), np.floor(stored / (2**bits - 1) * 255 + 0.5))


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE, JPEG_2000])
def test_colour_becomes_luminance(read, syntax: str) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    assert abs(read(film_bytes(colour, bits=8, syntax=syntax, photometric="RGB")).astype(int) - expected).max() <= 1
    if syntax == EXPLICIT:
        apart = film_bytes(colour, bits=8, photometric="RGB", PlanarConfiguration=1, PixelData=colour.transpose(2, 0, 1).tobytes())
        np.testing.assert_array_equal(read(apart), expected)
        np.testing.assert_array_equal(read(film_bytes(colour, bits=8, photometric="YBR_FULL")), colour[..., 0])


def test_pixels_that_are_not_square_become_square(read) -> None:
    tall = film_bytes(GREY[:, :32], bits=8, PixelSpacing=["0.1", "0.2"])  # each twice as wide as high
    averaged = GREY[:, :32].reshape(32, 2, 32).mean(axis=1)
    assert abs(read(tall, 32).astype(float) - averaged).max() <= 0.5
    wide = film_bytes(GREY[:32], bits=8, PixelAspectRatio=["2", "1"])
    assert abs(read(wide, 32).astype(float) - GREY[:32].reshape(32, 32, 2).mean(axis=2)).max() <= 0.5
    for spacing in (["0", "0"], ["0.1", "0.1003"]):  # none, and one rounded
        np.testing.assert_array_equal(read(film_bytes(GREY, bits=8, PixelSpacing=spacing)), GREY)


def test_a_film_that_is_not_square_is_padded_or_cut(tmp_path: Path, read) -> None:
    cv2.imwrite(str(tmp_path / "film.png"), GREY[:32])
    content = film_bytes(GREY[:32], bits=8)
    for reading, expected in ((Reading(), np.vstack([0 * GREY[:16], GREY[:32], 0 * GREY[:16]])), (Reading(fit="crop"), GREY[:32, 16:48])):
        for row in (read(content, len(expected), reading), decode(tmp_path / "film.png", len(expected), reading)):
            np.testing.assert_array_equal(row, expected)


# --- what is refused ----------------------------------------------------------------------------------------------------------------------------------


def without(content: bytes, keyword: str, **elements) -> bytes:
    film = pydicom.dcmread(io.BytesIO(content))
    delattr(film, keyword)
    for name, value in elements.items():
        setattr(film, name, value)
    out = io.BytesIO()
    film.save_as(out)
    return out.getvalue()


def deflated_bomb() -> bytes:
    """Four kilobytes that are four megabytes."""
    whole = film_bytes(GREY, bits=8, syntax=DEFLATED)
    at = 132 + 12 + struct.unpack_from("<I", whole, 140)[0]  # past the file meta information
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return whole[:at] + packer.compress(bytes(2**22)) + packer.flush()


def j2k_bomb() -> bytes:
    """A stream that says 60,000 pixels in a header that says 64."""
    whole = film_bytes(GREY, bits=8, syntax=JPEG_2000)
    at = whole.index(b"\xff\x4f\xff\x51") + 8
    return whole[:at] + struct.pack(">II", 60_000, 60_000) + whole[at + 8 :]


def cases() -> dict[str, tuple[bytes, str]]:
    sound, packed = film_bytes(GREY, bits=8), film_bytes(GREY, bits=8, syntax=JPEG_2000)
    rle = film_bytes(GREY, bits=8, syntax=RLE)
    return {
        "empty": (b"", "empty"),
        "text": (b"not a film at all" * 20, "not a DICOM file"),
        "a PNG": (cv2.imencode(".png", GREY)[1].tobytes(), "not a DICOM file"),
        "half of its pixels": (sound[: len(sound) - 2048], "truncated: 2,048 of 4,096 bytes"),
        "no pixels": (without(sound, "PixelData"), "it has no pixels"),
        "header only": (sound[:400], "says no|no pixels|damaged"),
        "signature only": (sound[:132], "transfer syntax"),
        "half of its compressed pixels": (packed[:-60], "truncated"),
        "half of its RLE pixels": (rle[:-60], "truncated"),
        "floats": (without(sound, "PixelData", FloatPixelData=np.zeros((64, 64), np.float32).tobytes()), "no integers"),
        "two frames": (film_bytes(GREY, bits=8, NumberOfFrames=2, PixelData=GREY.tobytes() * 2), "several frames"),
        "a row too many": (film_bytes(GREY, bits=8, Rows=63), "4,096 bytes of pixels where its size makes 4,032"),
        "too large": (film_bytes(GREY, bits=8, Rows=65_000, Columns=65_000), "no film has its size: 65000 x 65000"),
        "no size": (without(sound, "Rows"), "says no Rows"),
        "one bit": (film_bytes(GREY, bits=8, BitsAllocated=1, BitsStored=1, HighBit=0), "1 of 1 bits"),
        "32 bits": (film_bytes(GREY, bits=8, BitsAllocated=32, BitsStored=32, HighBit=31), "32 of 32 bits"),
        "a palette": (film_bytes(GREY, bits=8, PhotometricInterpretation="PALETTE COLOR"), "neither grey nor"),
        "no width of its window": (film_bytes(GREY, bits=8, WindowCenter="100"), "window has no width"),
        "slope of nothing": (film_bytes(GREY, bits=8, RescaleSlope="0", RescaleIntercept="0"), "slope is 0"),
        "a slope in words": (film_bytes(GREY, bits=8, RescaleSlope="2.5", RescaleIntercept="0").replace(b"2.5 ", b"half"), "RescaleSlope"),
        "another part": (film_bytes(GREY, bits=8, BodyPartExamined="EXTREMITY"), "not a chest: its body part is EXTREMITY"),
        "a spine": (film_bytes(GREY, bits=8, BodyPartExamined="THORACIC SPINE"), "not a chest: its header names another"),
        "a CT": (film_bytes(GREY, bits=8, Modality="CT"), "not a radiograph: its modality is CT"),
        "no modality that there is": (film_bytes(GREY, bits=8, Modality="JOHN DOE"), "not a radiograph$"),
        "long pixels": (film_bytes(GREY, bits=8, PixelAspectRatio=["1", "500"]), "ten times"),
        "JPEG 2000 bomb": (j2k_bomb(), "another size"),
    }


CASES = cases() if find_spec("pydicom") else {}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_film_is_refused_with_the_reason(read, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, reason = CASES[name]
    with pytest.raises(DecodeError, match=reason):
        read(content)
    told = capfd.readouterr()
    assert told.err + told.out == ""


def test_a_file_that_inflates_to_more_than_any_film_is_refused_before_it_is_inflated(read, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = deflated_bomb()
    assert len(bomb) < 2**14
    monkeypatch.setattr(dicom, "MAX_BYTES", 2**21)
    with pytest.raises(DecodeError, match="more than 2 MB when inflated"):
        read(bomb)


@pytest.mark.parametrize(
    "elements", [{"BodyPartExamined": part} for part in ("CHEST", "PORT CHEST", "Thorax", "TORAX", "LUNG", "", None)] + [{"Modality": "CR"}, {"Modality": None}]
)
def test_what_says_chest_or_nothing_is_read(read, elements: dict) -> None:
    np.testing.assert_array_equal(read(film_bytes(GREY, bits=8, **elements)), GREY)


# --- real films ---------------------------------------------------------------------------------------------------------------------------------------


def test_real_films_in_every_encoding(tmp_path: Path, published: Path) -> None:
    """RG1: a chest, MONOCHROME1, 15 bits, 1955 x 1841; J2KI is lossy, and UNCI what it unpacks to. RG3: a leg."""
    paths = {f"{name}.png": published / f"{name}.dcm" for name in ("RG1_J2KI", "RG1_J2KR", "RG1_UNCI", "RG1_UNCR", "RG3_J2KR", "RG3_UNCR")}
    store = build_store(tmp_path / "store", paths, size=256, source="test", package_version="0", n_threads=2)
    assert store.quarantine == {f"RG3_{kind}.png": "not a chest: its body part is EXTREMITY" for kind in ("J2KR", "UNCR")}
    assert "DICOM" in store.meta["rule"]
    j2ki, j2kr, unci, uncr = store.images
    np.testing.assert_array_equal(uncr, j2kr)
    assert abs(unci.astype(int) - j2ki).max() <= 1
    assert abs(uncr.astype(int) - unci).max() <= 1  # what 10:1 costs
    # 256 rows from 1955: lungs and mediastinum, as anybody sees them who looks at the picture
    lungs, mediastinum = np.concatenate([uncr[60:90, 50:85], uncr[60:90, 160:190]], axis=1), uncr[60:200, 120:132]
    assert np.median(lungs) + 40 < np.median(mediastinum)


def test_real_tables_are_those_of_pydicom(published: Path) -> None:
    for name in ("mlut_18", "vlut_04"):  # test patterns: 12 bits with a modality table, 8 bits with a VOI table
        film = pydicom.dcmread(published / f"{name}.dcm")
        expected = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film).astype(float)
        expected = (expected - expected.min()) / (expected.max() - expected.min()) * 255
        assert abs(decode(published / f"{name}.dcm", film.Rows) - expected).max() <= 1


def test_a_store_of_png_films_does_not_speak_of_dicom(tmp_path: Path, films: list[Path]) -> None:
    paths = {path.name: path for path in films}
    for window in ("voi", "full"):
        store = build_store(tmp_path / window, paths, size=32, source="test", package_version="0", reading=Reading(dicom_window=window))
        assert store.meta["rule"] == "grey by luminance, 16 bits by their upper byte, alpha ignored, padded to a square with black, cv2.INTER_AREA; version 1"
    assert (tmp_path / "voi/meta.json").read_bytes() == (tmp_path / "full/meta.json").read_bytes()


def test_without_pydicom_dicom_films_are_refused_before_anything_is_made_and_png_films_are_not(tmp_path: Path, films: list[Path]) -> None:
    (tmp_path / "film.dcm").write_bytes(film_bytes(GREY, bits=8))
    code = """
import sys
from pathlib import Path
sys.modules["openjpeg"] = None
from cxr.data.store import build_store
for name in sys.argv[2:]:
    build_store(Path(sys.argv[1]) / Path(name).suffix, {"film.png": Path(name)}, size=32, source="test", package_version="0")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "stores"), str(films[0]), str(tmp_path / "film.dcm")], capture_output=True, text=True)
    assert "MissingPackageError: DICOM films need pylibjpeg-openjpeg, which is not installed: pip install" in done.stderr
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [".png"]
