"""Writes miniatures of other data sets, each in the exact dialect of its published files: what the tests of other label spaces read.

Patients, films and labels are invented, and the films are drawn as those of `cxr.mini` are, so that a network which has learned that miniature reads these too.

    python -c "from pathlib import Path; from cxr.mini_external import write_chexpert; write_chexpert(Path('data/mini_chexpert'))"
"""

import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr.cohort.chexpert import COLUMNS, NO_FINDING
from cxr.cohort.findings import UNIONS
from cxr.cohort.rsna import BOXES, CLASSES, MAPPING, NORMAL, OPACITY
from cxr.cohort.spaces import OPACITIES
from cxr.dicom import film_bytes
from cxr.mini import BOX_PIXELS, Film, draw_cohort, draw_film

# what a drawn film shows, in the words of CheXpert; a heart that is too large widens the mediastinum, and devices are not drawn
SHOWS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("Cardiomegaly",),
    "Lung Opacity": OPACITIES,
    "Lung Lesion": UNIONS["Nodule or mass"],
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "Support Devices": (),
}
AIRSPACE = frozenset(UNIONS["Airspace opacity"])


def write_chexpert(folder: Path, *, n_patients: int = 100, n_images: int = 300, size: int = 96, seed: int = 11, release: str = "CheXpert-v1.0-small") -> None:
    """train.csv, whose labels hedge and leave out, valid.csv, and a JPEG per row; every fourth study has a lateral film too.

    Args:
        folder: made by this call.
        n_patients, n_images: of frontal films; three patients in ten are in valid.csv.
        size: side of a film in pixels.
        seed: of everything.
        release: the folder that every path begins with, and that is not there when the archive is unpacked into `folder`.
    """
    rng, rows = np.random.default_rng([seed, 1]), {"train": list[list[Any]](), "valid": list[list[Any]]()}
    for film in draw_cohort(n_patients, n_images, seed):
        part = "valid" if film.in_test else "train"
        patient = 64_541 + film.patient_id if film.in_test else film.patient_id
        study = f"{part}/patient{patient:05d}/study{film.number + 1}"
        person = ["Male" if film.sex == "M" else "Female", int(film.age_years)]
        labels = [_cell(column, film, rng, hedges=not film.in_test) for column in COLUMNS]
        rows[part].append([f"{release}/{study}/view1_frontal.jpg", *person, "Frontal", film.view, *labels])
        _write_film(folder / study / "view1_frontal.jpg", film, size, seed)
        if rng.random() < 0.25:
            rows[part].append([f"{release}/{study}/view2_lateral.jpg", *person, "Lateral", "", *labels])
            _write_film(folder / study / "view2_lateral.jpg", film, size, seed)
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS)
    for part, of in rows.items():
        (folder / f"{part}.csv").write_text(_csv(header, of))


def write_mimic(folder: Path, *, n_patients: int = 80, n_images: int = 240, size: int = 96, seed: int = 12) -> None:
    """The three packed tables of MIMIC-CXR-JPG and `files/p10/p10000032/s50414267/<dicom_id>.jpg`; every fourth film is a lateral one, a study has no label."""
    rng = np.random.default_rng([seed, 1])
    films = draw_cohort(n_patients, n_images, seed)
    labels, split, metadata = list[list[Any]](), list[list[Any]](), list[list[Any]]()
    for k, film in enumerate(films):
        subject, study = 10_000_000 + 7 * film.patient_id, 50_000_000 + 13 * k
        part = "test" if film.in_test else "validate" if film.patient_id % 10 == 0 else "train"
        if k:
            labels.append([subject, study, *(_cell(column, film, rng, hedges=True) for column in sorted(COLUMNS))])
        for view in (film.view, *(["LATERAL"] if rng.random() < 0.25 else [])):
            dicom = "-".join(f"{int(number):08x}" for number in rng.integers(2**32, size=5))
            split.append([dicom, study, subject, part])
            step = "CHEST (PORTABLE AP)" if film.view == "AP" else "CHEST (PA AND LAT)"
            code = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}[view]
            metadata.append([dicom, subject, study, step, view, size, size, 21_800_506 + k, "213014.531", step, code, "Erect"])
            _write_film(folder / f"files/p{subject // 1_000_000}/p{subject}/s{study}/{dicom}.jpg", film, size, seed)
    tables: dict[str, tuple[tuple[str, ...], list[list[Any]]]] = {
        "chexpert": (("subject_id", "study_id", *sorted(COLUMNS)), labels),
        "split": (("dicom_id", "study_id", "subject_id", "split"), split),
        "metadata": (
            (
                *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime"),
                *("ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning"),
            ),
            metadata,
        ),
    }
    for kind, (header, rows) in tables.items():
        (folder / f"mimic-cxr-2.0.0-{kind}.csv.gz").write_bytes(gzip.compress(_csv(header, rows).encode(), mtime=0))


def write_rsna(folder: Path, *, n_patients: int = 400, n_images: int = 1200, size: int = 128, seed: int = 0, share: float = 0.3, suffix: str = ".dcm") -> None:
    """The challenge's two tables and its mapping file, of films of the miniature that `cxr.mini.write_miniature` makes of the same arguments.

    Args:
        folder: made by this call.
        n_patients, n_images, size, seed: of that miniature.
        share: of its films.
        suffix: of the films' files, which are published as DICOM and much passed on as ".png" or ".jpg".
    """
    rng = np.random.default_rng([seed, 13])
    films = draw_cohort(n_patients, n_images, seed)
    boxes, classes, mapping = list[list[Any]](), list[list[Any]](), list[dict[str, Any]]()
    for number, k in enumerate(np.sort(rng.permutation(len(films))[: round(share * len(films))])):
        film, digits = films[k], rng.bytes(16).hex()
        name = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        image, drawn = draw_film(film, size, seed)
        opacities = [box for finding, box in drawn.items() if finding in AIRSPACE]
        kind = OPACITY if opacities else "No Lung Opacity / Not Normal" if film.truth else NORMAL
        uid = f"1.2.276.0.7230010.3.1.2.8323329.{k}.1517874414"
        mapping.append(
            {"subset_img_id": name, "img_id": film.image_id, "subset_group": "train", "subset_init_label": 1 if opacities else 2}
            | {"orig_labels": sorted(film.truth - {"Fracture"}) or [NO_FINDING], "instanceId": f"I_{k}", "seriesId": f"E_{k}", "studyId": f"S_{k}"}
            | {"StudyInstanceUID": f"{uid}.1", "SeriesInstanceUID": f"{uid}.2", "SOPInstanceUID": f"{uid}.3"}
        )
        if number % 20 == 19:  # of the challenge's own test set, whose labels are not in these tables
            continue
        for box in opacities:
            boxes.append([name, *(f"{round(BOX_PIXELS * part)}.0" for part in box), 1])
            classes.append([name, kind])
        if not opacities:
            boxes.append([name, "", "", "", "", 0])
            classes.append([name, kind])
        _write(folder / f"stage_2_train_images/{name}{suffix}", image)
    (folder / BOXES).write_text(_csv(("patientId", "x", "y", "width", "height", "Target"), boxes))
    (folder / CLASSES).write_text(_csv(("patientId", "class"), classes))
    (folder / MAPPING).write_text(json.dumps(mapping))


def write_tbportals(folder: Path, *, n_patients: int = 40, n_images: int = 100, size: int = 96, seed: int = 14, suffix: str = ".dcm") -> None:
    """The table of X-rays and the readers' annotations, a row per sextant; a consolidation is drawn where a cavity is annotated."""
    rng = np.random.default_rng([seed, 1])
    films, readings = list[list[Any]](), list[list[Any]]()
    for k, film in enumerate(draw_cohort(n_patients, n_images, seed)):
        patient, study = f"{film.patient_id:08x}-0704-4ca3-bf59-569d185320fa", f"1.3.6.1.4.1.25403.{k}"
        url = f"{patient}/{study}/{study}.1/{study}.1.1.dcm"
        country = "Belarus" if film.patient_id % 3 else "Georgia"
        films.append([patient, f"{film.patient_id:08x}-ce6f", study, f"{study}.1", url, "CR" if film.view == "AP" else "DX", country])
        _write_film((folder / url).with_suffix(suffix), film, size, seed)
        if rng.random() < 0.8:  # the others were read by nobody
            for sextant in ("Upper Left Sextant", "Upper Right Sextant"):
                n_cavities = int("Consolidation" in film.truth and sextant.startswith("Upper Left"))
                readings.append([study, "Radiologist 1", sextant, 20 + k % 50, n_cavities or "", 0, ""])
    header = ("patient_id", "condition_id", "imagingstudy_id", "series_instance_uid", "series_instance_content_url", "series_modality_cd", "country")
    (folder / "TB_Portals_CXRs_August_2023.csv").write_text(_csv(header, films))
    header = ("imagingstudy_id", "rater", "sextant", "overallpercentofabnormalvolume", "smallcavities", "mediumcavities", "largecavities")
    (folder / "TB_Portals_CXR_Manual_Annotations_August_2023.csv").write_text(_csv(header, readings))


def shows(column: str, film: Film) -> bool:
    """Whether the film was drawn with what CheXpert calls so."""
    if column == NO_FINDING:
        return not film.truth
    return not film.truth.isdisjoint(SHOWS.get(column, (column,)))


def _cell(column: str, film: Film, rng: np.random.Generator, *, hedges: bool) -> str:
    """1.0, 0.0, -1.0 or nothing, as a program reads it from a report; 1.0 or 0.0, as radiologists say it of the film."""
    present, dice = shows(column, film), rng.random()
    if not hedges:
        return f"{float(present)}"
    if column == NO_FINDING:
        return "1.0" if present else ""
    if present:
        return "1.0" if dice < 0.85 else "-1.0" if dice < 0.95 else ""
    return "" if dice < 0.80 else "0.0" if dice < 0.97 else "-1.0"


def _write_film(path: Path, film: Film, size: int, seed: int) -> None:
    _write(path, draw_film(film, size, seed)[0])


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        path.write_bytes(film_bytes(image, bits=8))
    elif not cv2.imwrite(str(path), image):
        raise OSError(f"{path} could not be written")


def _csv(header: tuple[str, ...], rows: list[list[Any]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in [header, *rows])
