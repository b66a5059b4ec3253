"""Every kind of file that the program reads, with sound ones to spoil and with what tells whether they were read rightly.

What "right" means is told for each kind by something other than the reader: the csv module, OpenCV, pydicom, or what was written before the spoiling.
"""

import ast
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pandas as pd

from cxr.cohort.boxes import BOX_FILE, load_boxes
from cxr.cohort.catalogue import LABEL_FILES, CatalogueError, load_catalogue
from cxr.cohort.dicom_headers import read_dicom_headers
from cxr.cohort.experts import ALL_READERS_FILE, FILES, FOUR_READERS_FILE, load_experts
from cxr.cohort.findings import NIH_FINDINGS, SPELLINGS
from cxr.cohort.others import load_other
from cxr.cohort.rsna import BOXES, CLASSES, MAPPING
from cxr.cohort.spaces import SPACES
from cxr.config import Config, from_plain
from cxr.data.decode import decode, decode_opencv, resize_square
from cxr.data.dicom_streams import encode_lossless_jpeg
from cxr.dicom import film_bytes, load
from cxr.mini import is_complete, write_miniature
from cxr.mini_external import write_chexpert, write_mimic, write_rsna, write_tbportals

EXPERT_FILES = (*(file for file, *_ in FILES.values()), FOUR_READERS_FILE, ALL_READERS_FILE)


class WrongError(AssertionError):
    """A reader believed something that the file does not say."""


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        name: in the table.
        files: the sound ones; one of them is spoiled at a time.
        read: takes the folder in which the spoiled file lies under its own name, beside the sound others.
        check: takes the spoiled content, and what was read; raises WrongError.
        mend: makes the spoiled content pass the checks that come first, so that the later ones are tried too; None where there are none.
    """

    name: str
    files: dict[str, bytes]
    read: Callable[[Path], Any]
    check: Callable[[str, bytes, Any], None]
    mend: Callable[[bytes], bytes] | None = None


def readers(folder: Path, mini: Path, real: Path | None) -> list[Reader]:
    """All kinds, with sound files to spoil.

    Args:
        folder: for what is made of the miniature.
        mini: the miniature, which is drawn if it is not there.
        real: a folder with data/cxr14_1024 and data/google_expert_labels, whose beginnings are spoiled too.
    """
    write_miniature(mini, progress=False)
    found = [_labels("labels", _some_labels(mini, 150)), _experts("expert labels", _some_experts(mini / "expert_labels", 60))]
    found += [_films("films", {path.name: path.read_bytes() for path in sorted((mini / "images").iterdir())[:12]})]
    found += [_jpeg(mini), _dicom(_dicom_films()), _dicom_headers()]
    found += [_boxes(mini), *_other_sets(folder / "others"), _miniature(mini)]
    if real:
        found.append(_labels("labels, real", _some_labels(real / "data/cxr14_1024", 150)))
        found.append(_experts("expert labels, real", _some_experts(real / "data/google_expert_labels", 60)))
        films = sorted((real / "data/cxr14_1024/images").iterdir(), key=lambda path: path.stat().st_size)
        found.append(_films("films, real", {path.name: path.read_bytes() for path in films[:6]}))
    found += [_store(folder, mini), _predictions(folder), _features(folder), _film_table(folder)]
    return [*found, _checkpoint(folder), _weights(folder), _run_folder(folder), _experiments(), _metrics(folder), _curves(), _looks(folder)]


def _equal(read: Any, expected: Any) -> None:
    if read != expected:
        raise WrongError("accepted, and not what was written")


def _rows(content: bytes) -> list[dict[str, str]]:
    """An independent reading of a table."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    return [{key.strip(): value for key, value in row.items() if key} for row in rows]


def _some_labels(root: Path, n: int) -> dict[str, bytes]:
    name = next(name for name in LABEL_FILES if (root / name).is_file())
    lines = (root / name).read_bytes().splitlines(keepends=True)[: n + 1]
    names = {line.split(b",")[0] for line in lines[1:]}
    lists = {file: b"\n".join(word for word in (root / file).read_bytes().split() if word in names) for file in ("train_val_list.txt", "test_list.txt")}
    return {name: b"".join(lines)} | lists


def _labels(name: str, files: dict[str, bytes]) -> Reader:
    table = next(iter(files))

    def check(file: str, content: bytes, catalogue: Any) -> None:
        text = content if file == table else files[table]
        rows = {row["Image Index"].strip(): row for row in _rows(text)}
        images = catalogue.images.set_index("image_id")
        if set(images.index) != set(rows):
            raise WrongError("other images than the table names")
        for image_id, row in rows.items():
            found = {finding for finding in NIH_FINDINGS if images.loc[image_id, finding] == 1}
            if found != set(row["Finding Labels"].strip().split("|")) - {"No Finding"} or images.loc[image_id, "patient_id"] != int(row["Patient ID"]):
                raise WrongError(f"{image_id} was read as another patient or with other findings")
        for key, listed in (("train_val", "train_val_list.txt"), ("test", "test_list.txt")):
            words = (content if file == listed else files[listed]).decode("utf-8-sig").split()
            if list(catalogue.lists[key]) != words:
                raise WrongError(f"{listed} was read as something else")

    return Reader(name, files, load_catalogue, check)


def _some_experts(folder: Path, n: int) -> dict[str, bytes]:
    """The rows of a few films in all five files, which still agree with each other."""
    texts = {file: (folder / file).read_text(encoding="utf-8-sig").splitlines(keepends=True) for file in EXPERT_FILES}

    def images(file: str) -> list[str]:
        return [row.get("Image Index") or row["Image ID"] for row in _rows("".join(texts[file]).encode())]

    chosen = set(images(FILES["all_findings_test"][0])[:n]) | set(images(FILES["four_findings_validation"][0])[:n])
    return {
        file: "".join([texts[file][0], *(line for line, image in zip(texts[file][1:], images(file), strict=True) if image in chosen)]).encode()
        for file in texts
    }


def _experts(name: str, files: dict[str, bytes]) -> Reader:
    meaning = {"YES": 1.0, "NO": 0.0, "": None}

    def check(file: str, content: bytes, experts: Any) -> None:
        for key, (path, column, findings, _) in FILES.items():
            rows = _rows(content if file == path else files[path])
            labels = experts.labels[key].set_index("image_id")
            if len(labels) != len(rows):
                raise WrongError(f"{key} has {len(labels)} rows and its file {len(rows)}")
            for row in rows:
                row = {SPELLINGS.get(name, name): value for name, value in row.items()}
                for finding in findings:
                    read, told = labels.loc[row[column].strip(), finding], meaning[row[finding]]
                    if not (read == told or (told is None and read != read)):
                        raise WrongError(f"{key}: {finding} of {row[column]} was read as {read}")

    return Reader(name, files, load_experts, check)


def _boxes(mini: Path) -> Reader:
    catalogue = load_catalogue(mini)
    files = {BOX_FILE: b"".join((mini / BOX_FILE).read_bytes().splitlines(keepends=True)[:60])}

    def check(file: str, content: bytes, boxes: pd.DataFrame) -> None:
        told = list[tuple[Any, ...]]()
        for row in _rows(content):
            x, y, width, height = (float(row[column]) for column in ("Bbox [x", "y", "w", "h]"))
            image = row["Image Index"].strip()
            told.append((image, int(image[:8]), row["Finding Label"].strip().replace("Infiltrate", "Infiltration"), x, y, x + width, y + height))
        if list(boxes.itertuples(index=False, name=None)) != told:
            raise WrongError("other boxes than the table names")

    return Reader("NIH's boxes", files, lambda folder: load_boxes(folder / BOX_FILE, catalogue), check)


def _other_sets(folder: Path) -> list[Reader]:
    """The tables of CheXpert, MIMIC-CXR-JPG (unpacked, and packed as they are published), the RSNA challenge and the TB Portals."""
    write_chexpert(folder / "chexpert", n_patients=12, n_images=24, size=16)
    write_mimic(folder / "mimic", n_patients=12, n_images=24, size=16)
    write_rsna(folder / "rsna", n_patients=20, n_images=60, size=16, share=0.5, suffix=".png")
    write_tbportals(folder / "tbportals", n_patients=12, n_images=24, size=16, suffix=".png")
    files = {name: {path.name: path.read_bytes() for path in sorted((folder / name).iterdir()) if path.is_file()} for name in SPACES}
    unpacked = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in files["mimic"].items()}
    return [
        Reader("CheXpert", files["chexpert"], _load_other("chexpert"), _check_chexpert(files["chexpert"])),
        Reader("MIMIC-CXR", unpacked, _load_other("mimic"), _check_mimic(unpacked)),
        Reader("MIMIC-CXR, packed", files["mimic"], _load_other("mimic"), _check_mimic(files["mimic"]), mend_gzip),
        Reader("RSNA", files["rsna"], _load_other("rsna"), _check_rsna(files["rsna"])),
        Reader("TB Portals", files["tbportals"], _load_other("tbportals"), _check_tbportals(files["tbportals"])),
    ]


def _load_other(name: str) -> Callable[[Path], pd.DataFrame]:
    def read(folder: Path) -> pd.DataFrame:
        other = load_other(name, folder, uncertain="ignore", unmentioned="zeros", training=True)
        return other.films.set_index("image_id", verify_integrity=True)

    return read


def _require_films(films: pd.DataFrame, told: dict[str, dict[str, Any]]) -> None:
    """Raises WrongError unless there are exactly these films, and of each what is told of it."""
    if not told or set(films.index) != set(told):
        raise WrongError("other films than the tables name, or none at all")
    for image_id, facts in told.items():
        for column, value in facts.items():
            read = films.loc[image_id, column]
            if not (read == value or (read != read and value is None)):
                raise WrongError(f"{column} of {image_id} is {value!r} and was read as {read!r}")


def _labelled(row: dict[str, str], meaning: dict[str, float | None]) -> dict[str, float | None]:
    return {finding: meaning[row[column].strip()] for finding, column in SPACES["chexpert"].columns.items()}


SURE = {"1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0, "-1.0": None, "-1": None, "": None}
MINED = SURE | {"": 0.0}


def _check_chexpert(files: dict[str, bytes]) -> Callable[[str, bytes, pd.DataFrame], None]:
    def check(file: str, content: bytes, films: pd.DataFrame) -> None:
        told = {}
        for part, meaning in (("train", MINED), ("valid", SURE)):
            for row in _rows((files | {file: content})[f"{part}.csv"]):
                if row["Frontal/Lateral"].strip() != "Frontal":
                    continue
                path = row["Path"].strip().split("/")
                patient = next(name for name in path[1:-1] if name.startswith("patient") and name[7:].isdigit())
                view, sex = row["AP/PA"].strip(), {"Male": "M", "Female": "F"}.get(row["Sex"].strip())
                told["chexpert:" + "/".join(path[1:])] = {
                    "part": f"chexpert_{part}",
                    "patient_id": f"chexpert:{patient}",
                    "view": view if view in ("AP", "PA") else None,
                    "sex": sex,
                    "age": int(row["Age"]),
                    **_labelled(row, meaning),
                }
        _require_films(films, told)

    return check


def _check_mimic(files: dict[str, bytes]) -> Callable[[str, bytes, pd.DataFrame], None]:
    def check(file: str, content: bytes, films: pd.DataFrame) -> None:
        tables = {}
        for name, text in (files | {file: content}).items():
            tables[name.removeprefix("mimic-cxr-2.0.0-").partition(".")[0]] = _rows(gzip.decompress(text) if name.endswith(".gz") else text)
        labels = {row["study_id"]: row for row in tables["chexpert"]}
        metadata = {row["dicom_id"]: row for row in tables["metadata"]}
        told = {}
        for row in tables["split"]:
            film, study = metadata[row["dicom_id"]], labels.get(row["study_id"])
            if film["ViewPosition"] in ("AP", "PA") and study:
                if study["subject_id"] != row["subject_id"]:
                    raise WrongError(f"study {row['study_id']} is of two patients")
                told["mimic:" + row["dicom_id"]] = {
                    "part": "mimic_test" if row["split"] == "test" else "mimic_train",
                    "patient_id": "mimic:" + row["subject_id"],
                    "view": film["ViewPosition"],
                    **_labelled(study, MINED),
                }
        _require_films(films, told)

    return check


def _check_rsna(files: dict[str, bytes]) -> Callable[[str, bytes, pd.DataFrame], None]:
    def check(file: str, content: bytes, films: pd.DataFrame) -> None:
        texts = files | {file: content}
        of_nih = {record["subset_img_id"]: record["img_id"] for record in json.loads(texts[MAPPING].decode("utf-8-sig"))}
        with_box = set[str]()
        for row in _rows(texts[BOXES]):
            box = [row[column] for column in ("x", "y", "width", "height")]
            if any(box):
                with_box.add(row["patientId"])
                if not all(math.isfinite(float(cell)) for cell in box):
                    raise WrongError(f"{box} is no box")
        told = {}
        for row in _rows(texts[CLASSES]):
            film, opacity = row["patientId"], float(row["patientId"] in with_box)
            told[f"rsna:{film}"] = {
                "nih_image_id": of_nih[film],
                "patient_id": str(int(of_nih[film][:8])),
                "Pneumonia": opacity,
                "Airspace opacity": opacity,
                "Abnormal": float(row["class"] != "Normal"),
            }
        _require_films(films, told)

    return check


def _check_tbportals(files: dict[str, bytes]) -> Callable[[str, bytes, pd.DataFrame], None]:
    table, annotations = sorted(files, key=lambda name: "Annotations" in name)

    def check(file: str, content: bytes, films: pd.DataFrame) -> None:
        texts, has_cavity = files | {file: content}, dict[str, float]()
        for row in _rows(texts[annotations]):
            here = any(float(row[size] or 0) > 0 for size in ("smallcavities", "mediumcavities", "largecavities"))
            has_cavity[row["imagingstudy_id"]] = max(float(here), has_cavity.get(row["imagingstudy_id"], 0.0))
        told = {}
        for row in _rows(texts[table]):
            path, patient = row["series_instance_content_url"].strip(), row.get("patient_id") or row["condition_id"]
            told[f"tbportals:{path}"] = {"patient_id": f"tbportals:{patient.strip()}", "path": path, "Cavity": has_cavity.get(row["imagingstudy_id"])}
        _require_films(films, told)

    return check


def _miniature(mini: Path) -> Reader:
    file = "miniature.json"
    sound = (mini / file).read_bytes()

    def check(spoiled: str, content: bytes, is_ours: bool) -> None:
        _equal(is_ours, json.loads(content) == json.loads(sound))

    return Reader("miniature", {file: sound}, lambda folder: is_complete(folder, json.loads(sound)), check)


def _films(name: str, files: dict[str, bytes]) -> Reader:
    def read(folder: Path) -> np.ndarray:
        return decode(next(folder.iterdir()), 32)

    def check(file: str, content: bytes, pixels: np.ndarray) -> None:
        if not np.array_equal(pixels, resize_square(decode_opencv(content), 32)):
            raise WrongError("other pixels than OpenCV's")

    return Reader(name, files, read, check, mend_png)


def _jpeg(mini: Path) -> Reader:
    """Grey, coloured and progressive ones. They have no checksums, so what counts as their pixels is what OpenCV sees in them."""
    path = next((mini / "images").iterdir())
    grey = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (96, 80))
    colour = cv2.applyColorMap(grey, cv2.COLORMAP_BONE)
    made = {"grey.jpg": (grey, []), "colour.jpg": (colour, []), "progressive.jpg": (colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 60])}
    files = {name: cv2.imencode(".jpg", pixels, flags)[1].tobytes() for name, (pixels, flags) in made.items()}

    def read(folder: Path) -> np.ndarray:
        return decode(next(folder.iterdir()), 32)

    def check(file: str, content: bytes, pixels: np.ndarray) -> None:
        """A colour of three equal parts has that luminance, so that one reading fits grey films too."""
        colours = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if not np.array_equal(pixels, resize_square(cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY), 32)):
            raise WrongError("other pixels than OpenCV's")

    return Reader("films, JPEG", files, read, check)


def _dicom_films() -> dict[str, bytes]:
    """Small films of every syntax that can be written here, with all that a header may say of their greys; and real ones where pydicom-data is installed."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (48, 40), dtype=np.uint8)
    deep = rng.integers(0, 4096, (48, 40), dtype=np.uint16)
    window = {"WindowCenter": "1800", "WindowWidth": "2500", "RescaleSlope": "1.5", "RescaleIntercept": "-100"}
    files = {}
    for name, syntax in (
        ("explicit", "1.2.840.10008.1.2.1"),
        ("implicit", "1.2.840.10008.1.2"),
        ("deflated", "1.2.840.10008.1.2.1.99"),
        ("big", "1.2.840.10008.1.2.2"),
    ):
        files[f"{name}.dcm"] = film_bytes(deep, bits=12, syntax=syntax, photometric="MONOCHROME1", **window)
    for name, syntax in (("rle", "1.2.840.10008.1.2.5"), ("jpeg2000", "1.2.840.10008.1.2.4.90")):
        files[f"{name}.dcm"] = film_bytes(grey, bits=8, syntax=syntax)
        files[f"{name}_deep.dcm"] = film_bytes(deep.astype(np.int16) - 2048, bits=12, syntax=syntax, **window)
    files["jpeg.dcm"] = film_bytes(deep, bits=12, syntax="1.2.840.10008.1.2.4.70", frame=encode_lossless_jpeg(deep, 12), **window)
    files["colour.dcm"] = film_bytes(np.stack([grey] * 3, axis=2), bits=8, photometric="RGB")
    published = find_spec("data_store")
    if published and published.submodule_search_locations:
        folder = Path(published.submodule_search_locations[0]) / "data"
        for name in ("JPEG-LL", "emri_small_jpeg_ls_lossless", "SC_rgb_dcmtk_ebcyn1_dcmd", "vlut_04"):
            if (folder / f"{name}.dcm").is_file():
                files[f"{name}.dcm"] = _as_chest((folder / f"{name}.dcm").read_bytes())
    return files


def _as_chest(content: bytes) -> bytes:
    """A film of something else under the header of a chest film, of one frame: its pixels are what is tried."""
    pydicom = load()
    film = pydicom.dcmread(io.BytesIO(content))
    film.Modality, film.BodyPartExamined = "DX", "CHEST"
    if int(film.get("NumberOfFrames") or 1) > 1:
        film.PixelData = pydicom.encaps.encapsulate([next(pydicom.encaps.generate_frames(film.PixelData, number_of_frames=int(film.NumberOfFrames)))])
        film.NumberOfFrames = 1
    out = io.BytesIO()
    film.save_as(out)
    return out.getvalue()


def _dicom(files: dict[str, bytes]) -> Reader:
    def read(folder: Path) -> np.ndarray:
        return decode(next(folder.iterdir()), 32)

    def check(file: str, content: bytes, pixels: np.ndarray) -> None:
        """pydicom's reading of the same bytes, values and windows. Where it fails, for it reads more of a header, there is nothing to compare with."""
        pydicom = load()
        try:
            film = pydicom.dcmread(io.BytesIO(content))
            values = film.pixel_array
            if values.ndim != 2:
                return
            simple = not any(
                film.get(keyword) for keyword in ("ModalityLUTSequence", "VOILUTSequence", "PixelPaddingValue", "PixelSpacing", "PixelAspectRatio")
            )
            units = pydicom.pixels.apply_modality_lut(values, film)
            shown = pydicom.pixels.apply_voi_lut(units, film)
            ends = pydicom.pixels.apply_modality_lut(np.array(_range_of(film)), film)
            simple &= ("RescaleSlope" in film) == ("RescaleIntercept" in film)  # one without the other is nothing to pydicom
            simple &= "WindowCenter" in film and film.get("HighBit", film.BitsStored - 1) == film.BitsStored - 1
        except Exception:
            return
        if not simple:
            return
        grey = (shown - min(ends)) / max(1e-9, abs(ends[1] - ends[0])) * 255
        inverse = film.PhotometricInterpretation == "MONOCHROME1" or film.get("PresentationLUTShape") == "INVERSE"
        expected = resize_square(np.floor(np.clip(255 - grey if inverse else grey, 0, 255) + 0.5).astype(np.uint8), 32)
        if np.abs(pixels.astype(int) - expected).max() > 1:
            raise WrongError("other greys than pydicom's")

    return Reader("films, DICOM", files, read, check)


def _range_of(film: Any) -> tuple[int, int]:
    """The least and the greatest value that the stored bits can be."""
    bits = int(film.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if film.PixelRepresentation else (0, 2**bits - 1)


def _dicom_headers() -> Reader:
    persons = (("P17", "PA", "F", "058Y"), ("P17", "AP", "F", "059Y"), ("P4", "PA", "M", "011M"))
    keywords, pixels = ("PatientID", "ViewPosition", "PatientSex", "PatientAge"), np.zeros((4, 4), np.uint8)
    files = {
        f"film{k}.dcm": film_bytes(pixels, bits=8, syntax=syntax, **dict(zip(keywords, person, strict=True)))
        for k, (person, syntax) in enumerate(zip(persons, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"), strict=True))
    }

    def read(folder: Path) -> pd.DataFrame:
        table, refused = read_dicom_headers(folder)
        if refused:
            raise CatalogueError(*refused.values())
        return table.set_index("image_id")

    def check(file: str, content: bytes, table: pd.DataFrame) -> None:
        """pydicom's whole reading of the same bytes. Where it fails, for it reads more of a header, there is nothing to compare with."""
        try:
            header = load().dcmread(io.BytesIO(content))
            patient, view, sex, age = (str(header.get(keyword) or "") for keyword in keywords)
        except Exception:
            return
        unit = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}.get(age[3:])
        told = (
            patient.strip() or None,
            view.strip().upper() if view.strip().upper() in ("PA", "AP") else None,
            sex.strip().upper() if sex.strip().upper() in ("M", "F") else None,
            int(age[:3]) * unit if unit and age[:3].isdigit() else None,
        )
        row = table.loc[Path(file).stem + ".png"]
        for read, expected in zip(row, told, strict=True):
            if not (read == expected or (pd.isna(read) and expected is None)):
                raise WrongError(f"{expected!r} in the header was read as {read!r}")

    return Reader("DICOM headers", files, read, check)


def _store(folder: Path, mini: Path) -> Reader:
    from cxr.data.store import build_store, open_store

    paths = {path.name: path for path in sorted((mini / "images").iterdir())[:20]}
    made = build_store(folder / "store", paths, size=32, source="mini", package_version="0")
    files = {path.name: path.read_bytes() for path in (folder / "store").iterdir()}

    def check(file: str, content: bytes, store: Any) -> None:
        same = np.array_equal(store.images, made.images) and np.array_equal(store.image_ids, made.image_ids) and store.quarantine == made.quarantine
        if not same or (file != "meta.json" and store.meta != made.meta):
            raise WrongError("another store than the one that was made")

    def read(folder: Path) -> Any:
        return open_store(folder)

    return Reader("image store", files, read, check, mend_meta)


def _predictions(folder: Path) -> Reader:
    from cxr.report.predictions import read_predictions, write_predictions

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image_id": [f"{i:08d}_000.png" for i in range(60)], "patient_id": np.arange(60), "split": ["val", "test"] * 30})
    table = table.join(pd.DataFrame(rng.normal(size=(60, 14)).astype(np.float32), columns=[f"logit_{finding}" for finding in NIH_FINDINGS]))
    write_predictions(folder / "predictions.parquet", table, {"protocol": {"seed": 0}, "train_prevalence": dict.fromkeys(NIH_FINDINGS, 0.1)})
    made = read_predictions(folder / "predictions.parquet")

    def check(file: str, content: bytes, predictions: Any) -> None:
        if not predictions.table.equals(made.table) or predictions.metadata != made.metadata or predictions.findings != made.findings:
            raise WrongError("other predictions than were made")

    def read(folder: Path) -> Any:
        return read_predictions(folder / "predictions.parquet")

    return Reader("predictions", {"predictions.parquet": (folder / "predictions.parquet").read_bytes()}, read, check)


def _features(folder: Path) -> Reader:
    from cxr.report.features import FILE, read_features, write_features

    values = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    write_features(folder / FILE, np.array([f"{i:08d}_000.png" for i in range(20)]), values, checkpoint_sha256="ab")

    def check(file: str, content: bytes, table: pd.DataFrame | None) -> None:
        """The bytes of the archive's members, whose places zipfile knows and whose meaning their headers tell."""
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: _array(archive.read(f"{name}.npy")) for name in ("image_id", "features", "checkpoint_sha256")}
        if (str(members["checkpoint_sha256"]) == "ab") != (table is not None):
            raise WrongError("taken for another network's")
        if table is None:
            return
        if table.index.tolist() != members["image_id"].tolist() or table.to_numpy().dtype != np.float32 or table.ndim != 2:
            raise WrongError("other films than were written")
        if not np.array_equal(table.to_numpy(), members["features"]) or not all(map(math.isfinite, table.to_numpy().ravel())):
            raise WrongError("other features than were written")

    return Reader("features", {FILE: (folder / FILE).read_bytes()}, lambda at: read_features(at / FILE, "ab"), check, mend_zip)


def _array(member: bytes) -> np.ndarray:
    """What a .npy file says by its header, whose length stands at byte 8."""
    (length,) = struct.unpack_from("<H", member, 8)
    header = ast.literal_eval(member[10 : 10 + length].decode("latin1"))
    order = "F" if header["fortran_order"] else "C"
    values = np.frombuffer(member, header["descr"], count=math.prod(header["shape"]), offset=10 + length)
    return values.reshape(header["shape"], order=order)


def _film_table(folder: Path) -> Reader:
    """What is kept of a prediction that was interrupted."""
    from cxr.report.film_table import FilmTable

    rng, output, identity = np.random.default_rng(0), "told.csv", {"films_sha256": "ab", "batch_size": 4}
    parts = [
        pd.DataFrame(
            {"image_id": [f"{n}_{i}.png" for i in range(5)], "path": "x.png", "reason": ["", "", "", "truncated", ""], "logit_Mass": rng.normal(size=5)}
        )
        for n in range(2)
    ]
    with FilmTable(folder / output, identity) as table:
        for part in parts:
            table.add(part)
    files = {f"{output}.partial/{path.name}": path.read_bytes() for path in sorted((folder / f"{output}.partial").iterdir()) if path.name != "lock"}
    told = [(row.image_id, row.path, row.logit_Mass) for part in parts for row in part.itertuples() if not row.reason]

    def read(at: Path) -> list[tuple[str, str, float]]:
        with FilmTable(at / output, identity) as table:
            table.finish()
        return [(row["image_id"], row["path"], float(row["logit_Mass"])) for row in _rows((at / output).read_bytes())]

    return Reader("prediction in parts", files, read, lambda file, content, rows: _equal(rows, told))


def _checkpoint(folder: Path) -> Reader:
    import torch

    from cxr.model.checkpoint import CheckpointFiles, read_checkpoint

    generator = torch.Generator().manual_seed(0)
    content = {"state_dict": {"net.weight": torch.randn(20, 5, generator=generator)}, "global_step": 7, "epoch": 1, "identity": {"a": "b"}}
    CheckpointFiles(folder / "model.safetensors", {}).save_checkpoint(content, folder / "checkpoint.ckpt")

    def check(file: str, spoiled: bytes, read: dict[str, Any]) -> None:
        _equal({key: value for key, value in read.items() if key != "state_dict"}, {key: value for key, value in content.items() if key != "state_dict"})
        if not torch.equal(read["state_dict"]["net.weight"], content["state_dict"]["net.weight"]):  # type: ignore[index]
            raise WrongError("other weights than were written")

    return Reader("checkpoint", {"checkpoint.ckpt": (folder / "checkpoint.ckpt").read_bytes()}, lambda at: read_checkpoint(at / "checkpoint.ckpt"), check)


def _weights(folder: Path) -> Reader:
    """What model.weights names, of both formats."""
    import torch
    from safetensors.torch import save

    from cxr.model.backbone import create_backbone

    torch.manual_seed(1)
    state = create_backbone("test_resnet", n_findings=2, image_size=32, drop_rate=0.0, drop_path_rate=0.0).state_dict()
    packed = io.BytesIO()
    torch.save(state, packed)
    files = {"weights.safetensors": save(state), "weights.pth": packed.getvalue()}

    def read(at: Path) -> dict[str, np.ndarray]:
        """Of whichever of them is not what it was."""
        name = next((name for name, content in files.items() if (at / name).read_bytes() != content), "weights.pth")
        net = create_backbone("test_resnet", n_findings=2, image_size=32, drop_rate=0.0, drop_path_rate=0.0, weights=str(at / name))
        return {name: value.numpy() for name, value in net.state_dict().items()}

    def check(file: str, content: bytes, read: dict[str, np.ndarray]) -> None:
        """Safetensors have no checksum: what such a file says is read by its own header, 8 bytes of length and JSON. Of a file of torch, what was written."""
        told = {name: value.numpy() for name, value in state.items()}
        if file.endswith(".safetensors"):
            (length,) = struct.unpack_from("<Q", content)
            for name, item in json.loads(content[8 : 8 + length]).items():
                if name in told and item["dtype"] == "F32":
                    told[name] = np.frombuffer(content[8 + length :][slice(*item["data_offsets"])], np.float32).reshape(item["shape"])
        for name, value in read.items():
            if not np.isfinite(value).all() or not (name.startswith("fc.") or np.array_equal(value, told[name])):  # the last layer is not taken over
                raise WrongError(f"{name} has other weights than the file, or none")

    return Reader("weights", files, read, check)


def _run_folder(folder: Path) -> Reader:
    import yaml

    from cxr import resume

    config = from_plain(
        Config, {"data": {"name": "mini", "root": "mini"}, "model": {"name": "test_resnet"}, "loss": {"name": "focal"}, "optim": {"name": "adamw"}}
    )
    (folder / "run").mkdir()
    resume.begin(folder / "run", plain_values(config), choices={"data": "mini"}, commit=None)
    files = {name: (folder / "run" / name).read_bytes() for name in (resume.CONFIG, resume.RUN)}

    def read(at: Path) -> Any:
        return from_plain(Config, resume.read(at)[0])

    def check(file: str, content: bytes, read: Any) -> None:
        _contains(plain_values(read), yaml.safe_load(content if file == resume.CONFIG else files[resume.CONFIG]))

    return Reader("run folder", files, read, check)


def _experiments() -> Reader:
    """Files of configs/experiment, through the very code that starts train.py."""
    import yaml

    from cxr import config as module

    files = {f"experiment/{path.name}": path.read_bytes() for path in sorted((module.CONFIGS / "experiment").glob("*.yaml"))}

    def read(at: Path) -> Any:
        """The config of whichever of them is not what it was."""
        name = next((Path(file).stem for file, content in files.items() if (at / file).read_bytes() != content), "demo")
        (at / f"experiment/{name}.yaml").rename(at / "experiment/spoiled.yaml")
        taken: list[Any] = []
        words = [
            "train.py",
            f"hydra.searchpath=[file://{at}]",
            "experiment=spoiled",
            f"hydra.run.dir={at}/run",
            "hydra.output_subdir=null",
            "data.root=nowhere",
        ]
        with mock.patch.object(sys, "argv", words), contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
            status = module._run_hydra("train", Config, taken.append)
        if status:
            raise (RuntimeError if "Traceback" in said.getvalue() else module.ConfigError)(said.getvalue())
        return taken[0]

    def check(file: str, content: bytes, read: Any) -> None:
        told = yaml.safe_load(content) or {}
        _contains(plain_values(read), {key: value for key, value in told.items() if key not in ("defaults", "hydra", "data")})

    return Reader("experiment", files, read, check)


def _contains(taken: dict[str, Any], told: dict[str, Any]) -> None:
    """Every value of a file is in the config; it may write a number as a word, or a whole one as a fraction."""
    for group, values in told.items():
        for key, value in values.items() if isinstance(values, dict) else [(None, values)]:
            now = taken[group] if key is None else taken[group][key]
            if now != value and str(now) != str(value) and not (isinstance(now, int | float) and float(now) == float(value)):
                raise WrongError(f"{group}.{key} is {value!r} and was read as {now!r}")


def plain_values(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=lambda value: value.value))


def _metrics(folder: Path) -> Reader:
    from cxr import tracking

    text = "epoch,step,train/loss,val/loss\n" + "".join(f"{i // 4},{i},{1 / (i + 1)},\n" for i in range(12))

    def read(at: Path) -> list[dict[str, str]]:
        tracking._metrics_file(at / "metrics.csv", 8)
        return _rows((at / "metrics.csv").read_bytes())

    def check(file: str, content: bytes, rows: list[dict[str, str]]) -> None:
        if not all(row["step"].isdigit() and int(row["step"]) < 8 for row in rows):
            raise WrongError("rows of steps that are to be done again")

    return Reader("metrics.csv", {"metrics.csv": text.encode()}, read, check)


def _curves() -> Reader:
    """The same file, as a report draws it."""
    from cxr.report.figures import read_metrics

    text = "epoch,step,train/loss,val/auroc_macro,val/loss\n" + "".join(f"{i // 4},{i},{1 / (i + 1)},,\n{i // 4},{i},,0.{i},0.5\n" for i in range(12))

    def check(file: str, content: bytes, metrics: pd.DataFrame) -> None:
        told = _rows(content)
        if len(metrics) != len(told):
            raise WrongError("other rows than the file's")
        for column in ("epoch", "step", "val/auroc_macro"):
            for value, row in zip(metrics.get(column, []), told, strict=False):
                if not (float(value) == float(row[column] or "nan") or (value != value and not row[column])):
                    raise WrongError(f"{column} is {row[column]!r} and was read as {value}")

    return Reader("curves", {"metrics.csv": text.encode()}, lambda at: read_metrics(at / "metrics.csv"), check)


def _looks(folder: Path) -> Reader:
    from types import SimpleNamespace

    from cxr.report.protocol import record_look

    for i in range(4):
        record_look(folder / "looks.jsonl", SimpleNamespace(sha256=str(i)), checkpoint_sha256="c")  # type: ignore[arg-type]

    def read(at: Path) -> dict[str, int]:
        return record_look(at / "looks.jsonl", SimpleNamespace(sha256="x"), checkpoint_sha256="c")  # type: ignore[arg-type]

    def check(file: str, content: bytes, looks: dict[str, int]) -> None:
        _equal(looks["n"], len(content.splitlines()) + 1)

    return Reader("looks.jsonl", {"looks.jsonl": (folder / "looks.jsonl").read_bytes()}, read, check)


# --- mending ----------------------------------------------------------------------------------------------------------------------------------------


def mend_png(content: bytes) -> bytes:
    """Chunks with sound checksums, so that the decoder behind the checksums is reached."""
    mended, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + min(length, len(content) - at - 12)]
        mended += struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
        at += 12 + len(body)
    return bytes(mended)


def mend_meta(content: bytes) -> bytes:
    """meta.json with the hash of what it now says."""
    from cxr.data.store import _meta_sha256

    try:
        meta = json.loads(content)
        return json.dumps(meta | {"sha256": _meta_sha256(meta)}).encode()
    except (ValueError, TypeError, RecursionError):
        return content


def mend_gzip(content: bytes) -> bytes:
    """With the checksum and the length of what it now holds."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content[10:], 2**20)
    except zlib.error:
        return content
    packed = content[10 : len(content) - len(inflater.unused_data)]
    return content[:10] + packed + struct.pack("<II", zlib.crc32(inflated), len(inflated)) if inflater.eof else content


def mend_zip(content: bytes) -> bytes:
    """With the checksum of what each member now holds, in its own header and in the list at the end; a file that is no longer any archive stays as it is."""
    mended = bytearray(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            at = archive.start_dir
            for item in archive.infolist():
                name_length, extra_length = struct.unpack_from("<HH", content, item.header_offset + 26)
                start = item.header_offset + 30 + name_length + extra_length
                checksum = struct.pack("<I", zlib.crc32(content[start : start + item.compress_size]))
                mended[item.header_offset + 14 : item.header_offset + 18] = mended[at + 16 : at + 20] = checksum
                at += 46 + sum(struct.unpack_from("<HHH", content, at + 28))
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError, struct.error):
        return content
    return bytes(mended)
