"""Mirrors cohort/dicom_headers.py: the five facts, and that nothing else of a header is found anywhere afterwards."""

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from commands import absent, call

from cxr.cohort.catalogue import CatalogueError, load_catalogue
from cxr.cohort.dicom_headers import read_dicom_headers
from cxr.config import Data, DicomWindow
from cxr.data.store import open_store
from cxr.dicom import film_bytes
from cxr.run.study import prepare_store

PIXELS = np.zeros((64, 64), np.uint8)


def write(folder: Path, name: str, **elements) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(film_bytes(PIXELS, bits=8, **elements))


def test_a_row_per_film_says_whose_it_is_and_how_it_was_taken(tmp_path: Path) -> None:
    write(tmp_path, "b/00000002_000.dcm", PatientID=" 2b ", ViewPosition="AP", PatientSex="M", PatientAge="011M")
    write(tmp_path, "00000001_001.DCM", PatientID="1", ViewPosition="PA", PatientSex="F", PatientAge="058Y", syntax="1.2.840.10008.1.2.1.99")
    write(tmp_path, "00000003_000.dicom", PatientID="", ViewPosition="LL", PatientSex="O", PatientAge="58", syntax="1.2.840.10008.1.2.4.90")
    write(tmp_path, "00000004_000.dcm", PatientAge="003W")
    (tmp_path / "00000005_000.dcm").write_bytes(b"no film")
    table, refused = read_dicom_headers(tmp_path)
    expected = pd.DataFrame(
        {
            "image_id": [f"0000000{name}.png" for name in ("1_001", "2_000", "3_000", "4_000")],
            "patient_id": ["1", "2b", None, None],
            "view": ["PA", "AP", None, None],
            "sex": ["F", "M", None, None],
            "age": [58.0, 11 / 12, np.nan, 21 / 365.25],
        }
    )
    pd.testing.assert_frame_equal(table, expected)
    assert refused == {"00000005_000.dcm": "not a DICOM file"}


def test_salted_numbers_are_the_same_for_a_patient_and_differ_with_the_salt(tmp_path: Path) -> None:
    for name, patient in (("1_000", "Doe-7"), ("1_001", "Doe-7"), ("2_000", "Doe-8"), ("3_000", "")):
        write(tmp_path, f"{name}.dcm", PatientID=patient)
    first, second = (read_dicom_headers(tmp_path, salt=salt)[0].patient_id.tolist() for salt in ("s", "t"))
    assert first[:2] == [hashlib.sha256(b"sDoe-7").hexdigest()[:16]] * 2
    assert len({*first[:3], *second[:3]}) == 4
    assert pd.isna(first[3])


def test_the_command_writes_the_table_once_and_says_what_it_could_not_read(tmp_path: Path) -> None:
    for name, patient in (("1_000", "Doe-7"), ("1_001", "Doe-7")):
        write(tmp_path, f"{name}.dcm", PatientID=patient)
    (tmp_path / "2_000.dcm").write_bytes(b"no film")
    arguments = ("scripts/dicom_headers.py", f"folder={tmp_path}", f"output={tmp_path / 'films.csv'}", "salt=s")
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert "2 films of 1 patients in" in done.stdout
    assert "2_000.dcm: not a DICOM file" in done.stdout
    written = pd.read_csv(tmp_path / "films.csv")
    assert written.image_id.tolist() == ["1_000.png", "1_001.png"]
    assert set(written.patient_id) == {hashlib.sha256(b"sDoe-7").hexdigest()[:16]}
    assert "Doe" not in done.stdout + (tmp_path / "films.csv").read_text()
    again = call(*arguments)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_two_files_of_one_image_are_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, "a.dcm", SOPInstanceUID="1.2.3")
    write(tmp_path, "b.dcm", SOPInstanceUID="1.2.3")
    with pytest.raises(CatalogueError, match=r"a\.dcm and .*b\.dcm"):
        read_dicom_headers(tmp_path, image_id="SOPInstanceUID")
    assert read_dicom_headers(tmp_path)[0].image_id.tolist() == ["a.png", "b.png"]
    with pytest.raises(CatalogueError, match="no DICOM file"):
        read_dicom_headers(tmp_path / "a.dcm")


def test_real_headers() -> None:
    found = find_spec("data_store")
    if found is None or not found.submodule_search_locations:
        absent("REAL MATERIAL ABSENT: pydicom-data is not installed")
    folder = Path(found.submodule_search_locations[0]) / "data"
    table, _ = read_dicom_headers(folder)
    films = table.set_index("image_id")
    assert films.loc["RG1_UNCR.png"].tolist()[:3] == ["9RG1", "PA", "F"]
    assert films.loc["RG3_UNCR.png"].tolist()[:3] == ["11RG3", "AP", "F"]
    with pytest.raises(CatalogueError, match=r"share their image"):  # a lossy film and what it was unpacked to bear one name
        read_dicom_headers(folder, image_id="SOPInstanceUID")


# --- privacy ------------------------------------------------------------------------------------------------------------------------------------------

PLANT = "XYZZY"


def planted(pixels: np.ndarray, *, spoil: int = 0, **elements) -> bytes:
    """A film whose every text element that is not read as a table's column says a word that is found nowhere else; also where a number or a code belongs."""
    film = pydicom.dcmread(io.BytesIO(film_bytes(pixels, bits=8)))
    texts = ("PatientName", "PatientComments", "OtherPatientNames", "PatientAddress", "InstitutionName", "InstitutionAddress", "AccessionNumber", "StudyID")
    texts += ("StudyDescription", "SeriesDescription", "ImageComments", "ReferringPhysicianName", "OperatorsName", "StationName", "ProtocolName")
    texts += ("DeviceSerialNumber", "EthnicGroup", "Occupation", "AdditionalPatientHistory", "RequestedProcedureDescription", "PatientBirthName")
    for keyword in texts:
        setattr(film, keyword, f"{PLANT} {keyword}"[:16])
    film.PatientBirthDate, film.StudyDate = "19870623", "19870624"
    film.PatientID, film.PatientAge, film.PatientSex, film.ViewPosition = "4711", "058Y", "F", "PA"
    block = film.private_block(0x0011, PLANT, create=True)
    block.add_new(0x01, "LO", PLANT)
    inner = pydicom.Dataset()
    inner.PatientName, inner.InstitutionName = PLANT, PLANT
    film.RequestAttributesSequence = pydicom.Sequence([inner])
    film.preamble = PLANT.encode().ljust(128, b"\0")
    for keyword, value in elements.items():
        film.add_new(keyword, "SH", value)
    out = io.BytesIO()
    film.save_as(out)
    content = out.getvalue()
    return content[: len(content) - spoil]


def test_nothing_of_a_header_but_the_five_facts_is_found_in_store_quarantine_table_or_log(tmp_path: Path, mini: Path) -> None:
    """Through the real command, which finds them in a folder of the data set; some are spoiled so that every kind of refusal speaks."""
    root = tmp_path / "root"
    root.mkdir()
    for path in mini.iterdir():
        if path.is_file():
            (root / path.name).symlink_to(path)
    names = [path.stem for path in sorted((mini / "images").iterdir())[:9]]
    rng = np.random.default_rng(0)
    bad = [{}, {"spoil": 100}, {"Modality": PLANT}, {"BodyPartExamined": PLANT}, {"WindowCenter": PLANT, "WindowWidth": PLANT}, {"RescaleSlope": PLANT}]
    bad += [{"PhotometricInterpretation": PLANT}, {"VOILUTFunction": PLANT, "WindowCenter": "1", "WindowWidth": "9"}, {"SpecificCharacterSet": PLANT}]
    (root / "dicom").mkdir()
    for name, elements in zip(names, bad, strict=True):
        (root / "dicom" / f"{name}.dcm").write_bytes(planted(rng.integers(0, 256, (64, 64), dtype=np.uint8), **elements))
    stores = tmp_path / "stores"
    done = call(
        "scripts/prepare.py",
        f"data.root={root}",
        "data.name=cxr14",
        f"data.store_dir={stores}",
        "data.image_size=32",
        "data.missing_images=allow",
        "data.fit=crop",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "9 of 9 files are DICOM" in done.stdout
    assert "cut to the square in its middle" in open_store(next(stores.iterdir())).meta["rule"]
    quarantine = (next(stores.iterdir()) / "quarantine.csv").read_text()
    assert len(quarantine.splitlines()) == 1 + 7, quarantine
    data = Data(name="cxr14", root=str(root), store_dir=str(tmp_path / "full"), image_size=32, dicom_window=DicomWindow.full)
    full = prepare_store(data, load_catalogue(root))
    assert "DICOM: from its darkest pixel to its brightest" in full.meta["rule"]
    assert len(full.quarantine) == 5  # nobody asks for the two windows that are no windows
    table, refused = read_dicom_headers(root / "dicom", salt="salt")
    assert len(table) == 9
    told = done.stdout + done.stderr + table.to_csv() + str(refused) + "".join(map(str, table.columns))
    everything = told.encode() + b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent != root / "dicom")
    for word in (PLANT, "19870623", "19870624", "4711"):
        assert word.encode() not in everything, word
        assert word.lower().encode() not in everything.lower(), word
    assert PLANT.encode() in (root / "dicom" / f"{names[0]}.dcm").read_bytes()
