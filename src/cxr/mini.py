"""Writes a miniature ChestX-ray14, experts included, in NIH's and Google's exact file dialects: what demo, tests and a first run use for data.

Everything in it is invented: the patients, the films, which are drawn, and all that is read in them. (Only the readers' numbers are the published
ones: a program knows their roles by them.) Each finding has a look of its own, so that a small network learns them in a minute, and the drawn truth is
known, so that every number of a report can be checked. Four steps, each a paragraph of its own below:

    cohort       who was filmed, how often, and what each film shows (the truth)
    text mining  the truth as a report parser would have it: misses, false alarms, two releases
    readers      the truth as radiologists see it, and the adjudicated files made of their votes
    drawing      a film per row

    python -c "from pathlib import Path; from cxr.mini import write_miniature; write_miniature(Path('data/mini'))"
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cxr.cohort.experts import JURY, READERS
from cxr.cohort.findings import ALL_FINDINGS, FOUR_FINDINGS, NIH_FINDINGS, NO_FINDING, UNIONS

FORMAT = 2  # raise it when the same arguments give other bytes: an older folder is then refused instead of mixed in

# finding: (share of patients who have it for good, sensitivity of the text-mined label, its false-positive rate)
FINDINGS = {
    "Atelectasis": (0.21, 0.86, 0.03),
    "Cardiomegaly": (0.19, 0.90, 0.02),
    "Effusion": (0.21, 0.90, 0.02),
    "Infiltration": (0.21, 0.82, 0.04),
    "Mass": (0.18, 0.88, 0.02),
    "Nodule": (0.19, 0.84, 0.02),
    "Pneumonia": (0.18, 0.80, 0.02),
    "Pneumothorax": (0.18, 0.88, 0.02),
    "Consolidation": (0.18, 0.84, 0.02),
    "Edema": (0.18, 0.86, 0.02),
    "Emphysema": (0.18, 0.86, 0.02),
    "Fibrosis": (0.18, 0.84, 0.02),
    "Pleural_Thickening": (0.18, 0.80, 0.03),
    "Hernia": (0.04, 0.90, 0.002),  # rare on purpose: it stays below the 20 positive patients that a macro average asks for
}
FRACTURE_SHARE = 0.19  # drawn and read by experts, unknown to the text-mined labels
TEST_FACTOR = 1.65  # the official test list is sicker than train_val
SHOWN = 0.7  # a lasting finding is on this share of its patient's films
ACUTE = {"PA": 0.01, "AP": 0.05}  # a passing finding, per film and finding: bedside films show more of them

BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")

# four findings: (sensitivity, false-positive rate) of every reader, and how often a reader hedges instead of saying YES and instead of saying NO
FOUR_READS = {"Fracture": (0.70, 0.01), "Pneumothorax": (0.82, 0.02), "Airspace opacity": (0.88, 0.08), "Nodule or mass": (0.80, 0.05)}
HEDGE = {"Pneumothorax": (0.10, 0.01), "Nodule or mass": (0.08, 0.015)}

# all findings: three readers make the reference, two are held out
ALL_READERS = ("4343882583", "4343882785", "4343880271", "4343883996", "4343883593")  # in the file's order
# reader: sensitivity, false-positive rate; and sensitivity for effusion, in which the two held-out readers differ most
ALL_READS = {
    "4343882785": (0.86, 0.015, 0.90),
    "4343883593": (0.84, 0.015, 0.86),
    "4343883996": (0.80, 0.010, 0.84),
    "4343882583": (0.78, 0.030, 0.82),
    "4343880271": (0.62, 0.015, 0.39),
}

# width and height of the original in pixels, pixel spacing in mm as written in 2017 and in v2020
DETECTORS = (
    (2500, 2048, "0.168", "0.168"),
    (2992, 2991, "0.143", "0.14300000000000002"),
    (3056, 2544, "0.139", "0.139"),
    (2048, 2500, "0.171", "0.171"),
    (2021, 2021, "0.194311", "0.194311"),
)
SIZE_COLUMNS = ("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")
ENTRY_COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position", *SIZE_COLUMNS)
KAGGLE_COLUMNS = (
    *ENTRY_COLUMNS[:7],
    *("OriginalImageWidth", "OriginalImageHeight", "OriginalImagePixelSpacing_x", "OriginalImagePixelSpacing_y"),
)
BOX_PIXELS = 1024  # NIH's boxes are in the pixels of the distributed images, which the miniature's are not

Box = tuple[float, float, float, float]  # x, y, width, height as shares of the film

# streams of random numbers: what is drawn in one never shifts another
COHORT, MINING, READING, ANATOMY, PLACE, FILM = range(6)


class MiniatureError(ValueError):
    """The miniature cannot be written as asked; the message says what to do."""


# ---------------------------------------------------------------------------------------------------------------------------------- cohort


@dataclass(frozen=True)
class Film:
    """One row of the study."""

    patient_id: int
    number: int  # in the file name, and the follow-up number of the 2017 release
    order: int  # in time from 0: the follow-up number of v2020
    in_test: bool
    age_years: float
    sex: str
    view: str  # PA: standing; AP: at the bedside
    detector: tuple[int, int, str, str]
    truth: frozenset[str]  # of the 14 findings and Fracture

    @property
    def image_id(self) -> str:
        return f"{self.patient_id:08d}_{self.number:03d}.png"

    def four_truth(self, finding: str) -> bool:
        """Whether one of the four findings is drawn; two of them are unions of NIH's."""
        return not self.truth.isdisjoint(UNIONS.get(finding, (finding,)))


def draw_cohort(n_patients: int, n_images: int, seed: int) -> list[Film]:
    """Who was filmed and what each film shows, ordered by patient and number.

    Lasting findings are dealt out, not tossed for: the same share of patients has each of them under every seed, sick patients more than others.
    """
    rng = np.random.default_rng([seed, COHORT])
    patient_ids = np.sort(rng.choice(np.arange(1, 30_806), n_patients, replace=False))
    in_test = np.zeros(n_patients, bool)
    in_test[rng.permutation(n_patients)[: round(0.3 * n_patients)]] = True
    sickness = rng.gamma(2.0, 0.5, n_patients)

    # half of the patients have one film, some have fifteen and more; test patients have more than others
    more_films = rng.gamma(0.35, size=n_patients) * np.where(in_test, 1.6, 1.0)
    n_films = 1 + rng.multinomial(n_images - n_patients, more_films / more_films.sum())

    lasting: list[set[str]] = [set() for _ in range(n_patients)]
    for finding, share in [*((finding, rates[0]) for finding, rates in FINDINGS.items()), ("Fracture", FRACTURE_SHARE)]:
        for members, factor in [(np.flatnonzero(~in_test), 1.0), (np.flatnonzero(in_test), TEST_FACTOR)]:
            weights = sickness[members] / sickness[members].sum()
            for patient in rng.choice(members, round(share * factor * len(members)), replace=False, p=weights):
                lasting[patient].add(finding)

    infants = dict(zip(np.flatnonzero(~in_test & (n_films == 1)).tolist(), (11 / 12, 1 / 365), strict=False))  # ages of 011M and 001D

    films = []
    for k in range(n_patients):
        age = rng.uniform(3, 17) if rng.random() < 0.03 else np.clip(rng.normal(52, 15), 19, 92)
        ages = infants.get(k, age) + np.cumsum(rng.exponential(0.3, n_films[k])) * (k not in infants)
        # NIH numbered some patients' latest film 000; v2020 put them in order
        order = np.roll(np.arange(n_films[k]), int(n_films[k] > 2 and rng.random() < 0.3))
        sex = str(rng.choice(["M", "F"], p=[0.56, 0.44]))
        for number in range(n_films[k]):
            view = "AP" if rng.random() < (0.55 if number else 0.06) else "PA"
            shown = {finding for finding in sorted(lasting[k]) if rng.random() < SHOWN}
            passing = {finding for finding in NIH_FINDINGS if finding != "Hernia" and rng.random() < ACUTE[view]}
            detector = DETECTORS[rng.choice(len(DETECTORS), p=[0.4, 0.25, 0.2, 0.1, 0.05])]
            time = int(order[number])
            films.append(Film(int(patient_ids[k]), number, time, bool(in_test[k]), float(ages[time]), sex, view, detector, frozenset(shown | passing)))
    return films


# ----------------------------------------------------------------------------------------------------------------------------- text mining


def mine_labels(films: list[Film], seed: int) -> tuple[list[str], list[str]]:
    """`Finding Labels` cells of both releases, one per film.

    v2020 differs on a few test films (181 in the real one): a finding that 2017 had missed is appended, out of alphabetical order as there.
    """
    rng = np.random.default_rng([seed, MINING])
    draws = rng.random((len(films), len(NIH_FINDINGS)))
    mined = [
        sorted(f for f, draw in zip(NIH_FINDINGS, row, strict=True) if draw < FINDINGS[f][1 if f in film.truth else 2])
        for film, row in zip(films, draws, strict=True)
    ]
    missed = [sorted(film.truth.difference(names, {"Fracture"})) for film, names in zip(films, mined, strict=True)]
    correctable = [k for k, film in enumerate(films) if film.in_test and missed[k]]
    corrected = set(rng.permutation(correctable)[: max(1, len(films) // 150)].tolist())

    labels_2017 = ["|".join(names) or NO_FINDING for names in mined]
    labels_v2020 = ["|".join(mined[k] + missed[k][:1]) if k in corrected else cell for k, cell in enumerate(labels_2017)]
    return labels_2017, labels_v2020


# --------------------------------------------------------------------------------------------------------------------------------- readers


def choose_expert_films(films: list[Film], seed: int) -> tuple[list[Film], list[Film], list[Film]]:
    """Films of four-findings validation, of four-findings test, and of all-findings test (a subset of the second: PA, adults)."""
    rng = np.random.default_rng([seed, READING, 0])
    by_patient: dict[int, list[Film]] = {}
    for film in films:
        by_patient.setdefault(film.patient_id, []).append(film)

    # validation: some of the sicker train_val patients who came more than once; nearly all of their bedside films, half of the others
    train_val = [group for group in by_patient.values() if not group[0].in_test]
    weights = np.array([len(frozenset[str]().union(*(film.truth for film in group))) if 2 <= len(group) <= 6 else 0 for group in train_val])
    n_chosen = min(round(len(train_val) / 6), int(np.count_nonzero(weights)))
    chosen = np.sort(rng.choice(len(train_val), n_chosen, replace=False, p=weights / weights.sum()))
    validation = [film for k in chosen for film in train_val[k] if rng.random() < (0.9 if film.view == "AP" else 0.5)]

    adult_pa = [[film for film in group if film.in_test and film.view == "PA" and film.age_years >= 18] for group in by_patient.values()]
    all_test = [film for group in adult_pa for film in group[:5]]
    also_four = set(all_test)
    four_test = [film for film in films if film in also_four or (film.in_test and rng.random() < 0.5)]
    return validation, four_test, all_test


def read_four_findings(films: list[Film], readers: tuple[str, ...], set_id: str, seed: int) -> Iterator[list[str]]:
    """Rows of the four-findings readers' file: three readers a film, rarely one or two, and a few who read a film again."""
    rng = np.random.default_rng([seed, READING, 1 + (set_id == "test")])
    popularity = 1 / np.arange(1, len(readers))
    # how a film is read twice, as in the real file: [(which of its reads comes again, whether airspace opacity then changes)]
    again = {2: [(0, True), (1, True)], 5: [(0, True)], 8: [(1, False)], 11: [(0, False)]}

    for position, film in enumerate(films):
        # the first reader of a set reads nearly everything
        others = rng.choice(readers[1:], 2, replace=False, p=popularity / popularity.sum())
        at_film = [str(reader) for reader in ([readers[0], *others] if position % 97 else others)]
        at_film = [at_film[k] for k in rng.permutation(len(at_film))][: 1 if position == 17 else 2 if position % 41 == 20 else 3]
        reads = []
        for reader in at_film:
            values = []
            for finding in FOUR_FINDINGS:
                says_yes = rng.random() < FOUR_READS[finding][0 if film.four_truth(finding) else 1]
                hedges = rng.random() < HEDGE.get(finding, (0, 0))[0 if says_yes else 1]
                values.append("HEDGE" if hedges else yes_no(says_yes))
            reads.append([str(film.patient_id), film.image_id, reader, *values, set_id])
        for which, changes in again.get(position, []):
            repeat = list(reads[which])
            opacity = 3 + FOUR_FINDINGS.index("Airspace opacity")
            if changes:
                repeat[opacity] = yes_no(repeat[opacity] == "NO")
            reads.append(repeat)
        yield from reads


def read_all_findings(films: list[Film], seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the all-findings readers' file and of the adjudicated file made of the three readers' majority.

    For each film and finding at most one of the three errs, each as often as its rate says: so the majority on the 14 findings is the drawn truth.
    A fracture is none of the 14 and is voted `Other`.
    """
    rng = np.random.default_rng([seed, READING, 3])
    named = (*NIH_FINDINGS, "Fracture")
    reads, labels = [], []
    for film in films:
        truth = np.array([finding in film.truth for finding in named])
        votes = {}
        one_errs, lower = rng.random(len(named)), np.zeros(len(named))
        for reader in ALL_READERS:
            sensitivity, false_positives, for_effusion = ALL_READS[reader]
            sensitivities = np.where(np.array(named) == "Effusion", for_effusion, sensitivity)
            error = np.where(truth, 1 - sensitivities, false_positives)
            if reader in JURY:  # the readers share one draw between them: their shares of [0, 1) do not overlap
                votes[reader] = truth ^ ((one_errs >= lower) & (one_errs < lower + error))
                lower = lower + error
            else:
                votes[reader] = truth ^ (rng.random(len(named)) < error)

        person = [film.image_id, str(film.patient_id)]
        reads += [[*person, reader, str(int(v.any())), *map(yes_no, v)] for reader, v in votes.items()]
        majority = np.sum([votes[reader] for reader in JURY], axis=0) >= 2
        abnormal = sum(int(votes[reader].any()) for reader in JURY) >= 2
        # two who see different things agree that it is abnormal: that is `Other` too
        other = majority[-1] or (abnormal and not majority[:-1].any())
        labels.append([*person, yes_no(abnormal), *map(yes_no, majority[:-1]), yes_no(other)])
    return reads, labels


def yes_no(value: bool) -> str:
    return "YES" if value else "NO"


# --------------------------------------------------------------------------------------------------------------------------------- drawing
# Lengths are shares of the film, x to the right of the patient's midline and y down, in the frame of the slightly turned patient; brightness runs from 0 to 1.
# A region is a map (H, W) between 0 and 1 with a smooth edge, so that a film looks the same at every size. `side` is -1 left on the film, 1 right on it.

EDGE = 0.008


def inside(distance: np.ndarray, edge: float = EDGE) -> np.ndarray:
    """1 where `distance` is well above 0, 0 where well below, and a smooth step of width `edge` between."""
    return 0.5 + 0.5 * np.tanh(distance / edge)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian ridge: 1 at distance 0."""
    return np.exp(-0.5 * (distance / width) ** 2)


class Chest:
    """One patient's chest as this film shows it, and a painter for each finding.

    `image` is changed in place. A painter returns where its finding is, for the box; its `place` is keyed by patient and finding, so that a patient's finding
    stays on its spot from film to film.
    """

    def __init__(self, film: Film, size: int, seed: int) -> None:
        body = np.random.default_rng([seed, ANATOMY, film.patient_id])
        self.rng = rng = np.random.default_rng([seed, FILM, film.patient_id, film.number])
        self.size = size
        bedside = film.view == "AP"

        # findings that would hide one another keep to opposite sides of the same height
        self.apex, self.middle, self.base = (-1 if body.random() < 0.5 else 1 for _ in range(3))

        # the patient, then how they stood
        self.width = body.uniform(0.335, 0.385) + rng.normal(0, 0.004)
        self.top = body.uniform(0.12, 0.16) + rng.normal(0, 0.006)
        bottom = body.uniform(0.76, 0.80) - 0.04 * bedside + rng.normal(0, 0.008)
        heart = body.uniform(0.09, 0.11) + 0.008 * bedside
        dark, dome = body.uniform(0.34, 0.40), 0.075
        turn, midline = np.deg2rad(rng.normal(0, 1.5)), 0.5 + rng.normal(0, 0.012)
        if "Emphysema" in film.truth:  # too much air: black lungs that reach low, on a flat diaphragm
            bottom, dome, dark = 0.89, 0.015, dark + 0.13
        if "Cardiomegaly" in film.truth:
            heart = body.uniform(0.215, 0.235)

        grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        rows, columns = np.meshgrid(grid, grid, indexing="ij")
        cosine, sine = float(np.cos(turn)), float(np.sin(turn))  # Python floats leave the maps in float32
        self.x = columns * cosine + rows * sine + 0.5 - midline  # from the midline
        self.y = rows * cosine - columns * sine + 0.5
        out = np.abs(self.x)
        self.bottom = bottom

        # from the midline outwards: heart, lungs down to the diaphragm, chest wall
        self.wall = self.width * np.sqrt(1 - (1 - np.clip((self.y - self.top) / (0.8 - self.top), 0, 1)) ** 2.6)
        self.floor = bottom - dome * (1 - (2 * out / self.width - 0.9) ** 2) - 0.02 * (self.x < 0)
        self.heart = inside(1 - np.hypot((self.x - 0.3 * heart - 0.01 - 0.25 * (self.y - bottom + 0.13)) / heart, (self.y - bottom + 0.13) / 0.145), 0.06)
        chest = inside(self.wall - out) * inside(out - 0.055) * inside(self.y - self.top, 0.01) * (1 - self.heart)
        self.half = {side: chest * (side * self.x > 0) for side in (-1, 1)}  # without regard to the diaphragm
        self.air = chest * inside(self.floor - self.y)

        torso = inside(0.30 + 0.17 * inside(self.y - 0.13, 0.06) - out, 0.012)
        neck = inside(0.11 - out, 0.02) * inside(0.2 - self.y)
        self.image = 0.04 + 0.56 * np.maximum(torso, neck) + 0.14 * torso * inside(self.y - self.floor, 0.02) - dark * self.air
        self.image += 0.04 * self.air * bump(out - 0.09, 0.10) * self.texture(0.012)  # vessels
        self.image += 0.10 * bump(np.hypot(out - 0.095, (self.y - 0.43) * 0.7), 0.028)  # hila
        self.image += 0.10 * bump(self.y - 0.17 + 0.22 * (out - 0.2), 0.010) * inside(0.15 - np.abs(out - 0.21))  # collar bones
        self.image += (0.13 + 0.02 * np.sin(2 * np.pi * self.y / 0.055)) * bump(self.x, 0.045) * torso  # spine
        self.ribs(body, "Fracture" in film.truth)
        self.brighten(self.heart, 0.85, 0.74)

    def ribs(self, body: np.random.Generator, broken: bool) -> None:
        """Ribs as arches falling outwards; a broken one is brighter about the break, stepped, and has a dark gap."""
        rib, place = int(body.integers(3, 6)), body.uniform(0.20, 0.24)
        out = np.abs(self.x)
        arch = self.y - self.top - 0.045 - 0.9 * (out - 0.16) * np.abs(out - 0.16)
        nearest = np.clip(np.round(arch / 0.085), 0, 7)
        self.image += 0.085 * bump(arch - 0.085 * nearest, 0.011) * inside(out - 0.05, 0.02) * inside(self.wall - out)
        if broken:
            along = self.middle * self.x - place
            step = bump(arch - 0.085 * rib + 0.035 * (along > 0), 0.012)
            self.brighten(step * inside(0.08 - np.abs(along), 0.02) * (1 - bump(along, 0.010)) * inside(self.wall - out), 0.5)

    def brighten(self, region: np.ndarray, amount: float, level: float | np.ndarray = 0.92) -> np.ndarray:
        """Moves the region `amount` of the way to `level`; returns the region."""
        self.image += (level - self.image) * amount * region
        return region

    def disc(self, x: float, y: float, radius: float) -> np.ndarray:
        return inside(radius - np.hypot(self.x - x, self.y - y))

    def texture(self, grain: float) -> np.ndarray:
        """Noise of unit variance; `grain` is its size as a share of the film."""
        noise = cv2.GaussianBlur(self.rng.standard_normal((self.size, self.size), dtype=np.float32), (0, 0), max(grain * self.size, 0.5))
        return noise / noise.std()

    def cardiomegaly(self, place: np.random.Generator) -> np.ndarray:
        return self.heart  # drawn with the chest

    def emphysema(self, place: np.random.Generator) -> np.ndarray:
        return self.air  # drawn with the chest

    def edema(self, place: np.random.Generator) -> np.ndarray:
        """Haze around both hila, in the shape of a bat's wings: it spares the periphery."""
        wings = bump(np.hypot((np.abs(self.x) - 0.13) / 0.085, (self.y - 0.44) / 0.14), 1)
        return self.brighten(wings * self.air, 0.72, 0.72)

    def infiltration(self, place: np.random.Generator) -> np.ndarray:
        """A faint, wide patch without a border."""
        side, x, y = -self.base, place.uniform(0.2, 0.24), place.uniform(0.50, 0.56)
        return self.brighten(bump(np.hypot((side * self.x - x) / 0.10, (self.y - y) / 0.12), 1) * self.air, 0.75, 0.76)

    def consolidation(self, place: np.random.Generator) -> np.ndarray:
        """A dense, even upper lobe that ends on its fissure."""
        side, fissure = -self.apex, place.uniform(0.33, 0.38)
        lobe = inside(fissure - 0.18 * (side * self.x - 0.2) - self.y) * self.half[side]
        return self.brighten(lobe, 0.9, 0.84)

    def pneumonia(self, place: np.random.Generator) -> np.ndarray:
        """A grey patch with dark airways that fan out from the hilum."""
        side, x, y = self.base, place.uniform(0.2, 0.22), place.uniform(0.52, 0.56)
        patch = inside(1 - np.hypot(side * self.x - x, self.y - y) / 0.12, 0.2) * self.air
        airways = np.sin(13 * np.arctan2(self.y - 0.40, side * self.x) + place.uniform(0, 6))
        return self.brighten(patch, 0.85, 0.62 + 0.20 * airways)

    def fibrosis(self, place: np.random.Generator) -> np.ndarray:
        """An irregular net of lines over both bases."""
        base = inside(self.y - self.floor + 0.20, 0.03) * self.air
        x, y = self.x + 0.010 * self.texture(0.03), self.y + 0.010 * self.texture(0.03)
        lines = (bump(np.sin(np.pi * (y + slope * x) / 0.056), 0.32) for slope in (1.0, -1.0))
        self.image += 0.22 * base * sum(lines)
        return base

    def effusion(self, place: np.random.Generator) -> np.ndarray:
        """Fluid that fills the angle between ribs and diaphragm and climbs the side wall."""
        side, depth = self.base, place.uniform(0.03, 0.07)
        meniscus = self.floor - depth - 0.17 * np.clip(side * self.x / self.width, 0, 1) ** 3
        fluid = inside(self.y - meniscus) * self.half[side]
        self.brighten(fluid * inside(self.floor + 0.05 - self.y, 0.03), 0.9, 0.80)
        return fluid * self.air

    def pleural_thickening(self, place: np.random.Generator) -> np.ndarray:
        """A bright rim along the side wall."""
        rim = inside(-self.apex * self.x - self.wall + 0.045) * inside(0.15 - np.abs(self.y - 0.45), 0.02)
        return self.brighten(rim * self.air, 0.9, 0.88)

    def pneumothorax(self, place: np.random.Generator) -> np.ndarray:
        """Black, empty air outside a collapsed lung, whose border is a bright line."""
        side, collapse = self.apex, place.uniform(0.075, 0.11)
        border = self.wall - collapse * inside(0.52 - self.y, 0.08)
        depth = np.minimum(border - side * self.x, self.y - self.top - 0.75 * collapse)
        upper = self.half[side] * inside(0.55 - self.y, 0.02)
        self.brighten(empty := inside(-depth) * upper, 0.95, 0.02)
        self.brighten(bump(depth, 0.007) * upper, 0.75)
        return empty

    def atelectasis(self, place: np.random.Generator) -> np.ndarray:
        """A bright plate across the lower lung."""
        side, y, slope = -self.base, place.uniform(0.60, 0.64), place.uniform(-0.25, 0.25)
        out = side * self.x - 0.21
        return self.brighten(bump(self.y - y - slope * out, 0.016) * inside(0.11 - np.abs(out), 0.015), 0.95, 1.0)

    def mass(self, place: np.random.Generator) -> np.ndarray:
        """One big round shadow."""
        side, x, y = self.middle, place.uniform(0.17, 0.24), place.uniform(0.34, 0.48)
        return self.brighten(self.disc(side * x, y, place.uniform(0.068, 0.080)), 0.9)

    def nodule(self, place: np.random.Generator) -> np.ndarray:
        """One to three small round shadows in one lung."""
        side, spots = -self.middle, np.zeros_like(self.x)
        for _ in range(place.integers(1, 4)):
            x, y = side * place.uniform(0.12, 0.26), place.uniform(0.25, 0.45)
            spots = np.maximum(spots, self.disc(x, y, place.uniform(0.029, 0.034)))
        return self.brighten(spots, 0.95, 1.0)

    def hernia(self, place: np.random.Generator) -> np.ndarray:
        """Stomach behind the heart: a ring with air above a level of fluid."""
        x, y, radius = place.uniform(-0.02, 0.03), self.bottom - place.uniform(0.03, 0.05), place.uniform(0.065, 0.075)
        bubble, fluid = self.disc(x, y, radius), inside(self.y - y - 0.01)
        self.brighten(bubble * (1 - fluid), 0.85, 0.15)
        self.brighten(bubble * fluid, 0.9)
        self.brighten(bump(radius - np.hypot(self.x - x, self.y - y), 0.008), 0.8)
        return bubble


# what is small or sharp is painted last and stays visible
PAINTING_ORDER = (
    *("Emphysema", "Cardiomegaly", "Edema", "Infiltration", "Consolidation", "Pneumonia", "Fibrosis", "Effusion"),
    *("Pleural_Thickening", "Pneumothorax", "Atelectasis", "Mass", "Nodule", "Hernia"),
)


def draw_film(film: Film, size: int, seed: int) -> tuple[np.ndarray, dict[str, Box]]:
    """One film and where its findings are; a function of its arguments alone, in whatever order or thread films are drawn.

    Returns:
        (size, size) uint8, and per drawn finding of the 14 its box (x, y, width, height) as shares of the film.
    """
    chest = Chest(film, size, seed)
    boxes: dict[str, Box] = {}
    for index, finding in enumerate(PAINTING_ORDER):
        if finding in film.truth:
            paint = getattr(chest, finding.lower())
            region = paint(np.random.default_rng([seed, PLACE, film.patient_id, index])) > 0.5
            if region.any():
                rows, columns = np.flatnonzero(region.any(axis=1)).tolist(), np.flatnonzero(region.any(axis=0)).tolist()
                x, y, right, below = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                boxes[finding] = (x / size, y / size, (right - x) / size, (below - y) / size)

    rng, image = chest.rng, np.clip(chest.image, 0, 1)
    gamma, gain, grain = rng.uniform(0.88, 1.14), rng.uniform(0.92, 1.06), 0.028 if film.view == "AP" else 0.018
    image = gain * image**gamma + grain * rng.standard_normal((size, size), dtype=np.float32)
    marker = (slice(int(0.05 * size), int(0.09 * size)), slice(int(0.92 * size), int(0.95 * size)))
    image[marker] = 0.95  # the technician's lead letter
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8), boxes


# ----------------------------------------------------------------------------------------------------------------------------------- files


def write_miniature(
    folder: Path,
    *,
    n_patients: int = 400,
    n_images: int = 1200,
    size: int = 128,
    seed: int = 0,
    layout: str = "images",
    kaggle: bool = False,
    progress: bool = True,
) -> None:
    """Writes a miniature ChestX-ray14 with its expert labels, the same bytes for the same arguments, all of it or nothing.

    A folder that already holds it is left as it is. Several processes may call at once: one writes, the others wait for it.

    Args:
        folder: made by this call, its parents too; an empty one will do.
        n_patients: at least 40, three in ten of them in the test list.
        n_images: at least two per patient; with the defaults about 60 % are in train_val and 220 have all-findings labels.
        size: width and height of the films in pixels, at least 32. The label files speak of 1024-pixel films, as NIH's do.
        layout: "images" for one folder, "archives" for images_001/images to images_012/images, as the twelve archives unpack.
        kaggle: also write `sample_labels.csv`, the spelling of Kaggle's sample.
        progress: show a progress bar.

    Raises:
        MiniatureError: the arguments are out of range, or the folder holds something else.
    """
    if n_patients < 40 or n_images < 2 * n_patients or size < 32 or layout not in ("images", "archives"):
        raise MiniatureError(
            f"no miniature of {n_patients} patients, {n_images} images, {size} pixels, layout {layout!r}: "
            "take at least 40 patients, twice as many images, 32 pixels, and layout 'images' or 'archives'"
        )
    made_with = {"format": FORMAT, "n_patients": n_patients, "n_images": n_images, "size": size, "seed": seed, "layout": layout, "kaggle": kaggle}
    folder = Path(folder).absolute()
    partial = folder.with_name(f".{folder.name}.partial")
    while not is_complete(folder, made_with):
        with locked(partial) as mine:
            if not mine or is_complete(folder, made_with):  # another process has just finished it
                continue
            for leftover in partial.iterdir():  # of a write that was interrupted
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            films = draw_cohort(n_patients, n_images, seed)
            boxes = write_films(partial, films, size, seed, layout, progress)
            write_tables(partial, films, boxes, seed, kaggle)
            (partial / "miniature.json").write_text(json.dumps(made_with, indent=2) + "\n")
            partial.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)  # empty: made by a process that came too late to be needed


def is_complete(folder: Path, made_with: dict[str, object]) -> bool:
    """True if `folder` holds the miniature made with these arguments, False if it is missing or empty; MiniatureError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "miniature.json").read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MiniatureError(f"{folder} exists and is not a miniature: name another folder, or delete this one if nothing in it is needed")
    if found != made_with:
        changed = ", ".join(f"{key} {found.get(key)!r} instead of {value!r}" for key, value in made_with.items() if found.get(key) != value)
        raise MiniatureError(f"{folder} holds a miniature made with {changed}: delete the folder, or name another")
    return True


@contextmanager
def locked(partial: Path) -> Iterator[bool]:
    """Holds the temporary folder, which is its own lock: the kernel lets go of it when a writer dies, so that a leftover is never taken for work at hand.

    Yields:
        False if the folder was renamed or deleted by the process that held it before.
    """
    partial.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(partial, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield partial.exists() and os.path.samestat(os.fstat(handle), partial.stat())
    finally:
        os.close(handle)


def write_films(folder: Path, films: list[Film], size: int, seed: int, layout: str, progress: bool) -> list[dict[str, Box]]:
    """Draws every film into its folder; returns the boxes of each, in the order of `films`."""
    homes = ["images"] if layout == "images" else [f"images_{k:03d}/images" for k in range(1, 13)]
    paths = []
    for home, members in zip(homes, np.array_split(np.arange(len(films)), len(homes)), strict=True):
        (folder / home).mkdir(parents=True)
        paths += [folder / home / films[k].image_id for k in members]
    # 2 % of NIH's films carry three equal colours and an opaque alpha
    coloured = set(np.random.default_rng([seed, FILM]).permutation(len(films))[: round(0.02 * len(films))].tolist())

    def write_one(k: int) -> dict[str, Box]:
        image, boxes = draw_film(films[k], size, seed)
        if k in coloured:
            image = np.dstack([image, image, image, np.full_like(image, 255)])
        if not cv2.imwrite(str(paths[k]), image):
            raise OSError(f"{paths[k]} could not be written")
        return boxes

    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(tqdm(pool.map(write_one, range(len(films))), "drawing the miniature", len(films), unit="film", disable=None if progress else True))


def write_tables(folder: Path, films: list[Film], boxes: list[dict[str, Box]], seed: int, kaggle: bool) -> None:
    """Every label file, each in its own dialect: line ending, quoting (none), header and last line as published."""
    labels_2017, labels_v2020 = mine_labels(films, seed)
    cells_2017 = {film.image_id: cells for film, cells in zip(films, entries_2017(films, labels_2017), strict=True)}
    label_v2020 = {film.image_id: label for film, label in zip(films, labels_v2020, strict=True)}

    # the header has one comma more than the rows, and commas inside two of its names
    write_csv(folder / "Data_Entry_2017.csv", (*ENTRY_COLUMNS, ""), list(cells_2017.values()), "\r\n")
    if kaggle:
        write_csv(folder / "sample_labels.csv", KAGGLE_COLUMNS, list(cells_2017.values())[::5], "\r\n")
    rows_v2020 = []
    for film in sorted(films, key=lambda film: (film.patient_id, film.order)):
        width, height, _, spacing = film.detector
        person = [film.order, film.patient_id, int(film.age_years), film.sex, film.view]
        rows_v2020.append([film.image_id, label_v2020[film.image_id], *person, width, height, spacing, spacing])
    write_csv(folder / "Data_Entry_2017_v2020.csv", ENTRY_COLUMNS, rows_v2020, "\n")
    for name, in_test in [("train_val_list.txt", False), ("test_list.txt", True)]:
        (folder / name).write_text("\n".join(film.image_id for film in films if film.in_test == in_test))

    rng = np.random.default_rng([seed, READING, 4])
    box_rows = []
    for finding in BOXED:  # NIH asked a radiologist for boxes on some of the films of each
        drawn = [k for k, film in enumerate(films) if film.in_test and finding in boxes[k]]
        for k in rng.permutation(drawn)[:15]:
            written = "Infiltrate" if finding == "Infiltration" else finding
            box_rows.append([films[k].image_id, written, *(f"{BOX_PIXELS * share:.15g}" for share in boxes[k][finding])])
    write_csv(folder / "BBox_List_2017.csv", ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""), box_rows, "\n")

    validation, four_test, all_test = choose_expert_films(films, seed)
    four, everything = folder / "expert_labels/four_findings_expert_labels", folder / "expert_labels/all_findings_expert_labels"
    four.mkdir(parents=True)
    everything.mkdir()

    # labels of v2020, ages and follow-up numbers of 2017, unpadded
    reads: list[list[str]] = []
    for which, members, set_id in [("validation", validation, "val"), ("test", four_test, "test")]:
        rows = []
        for film in members:
            cells = cells_2017[film.image_id]
            plain = [film.image_id, label_v2020[film.image_id], film.number, film.patient_id, int(cells[4][:3]), *cells[5:]]
            rows.append([*plain, *(yes_no(film.four_truth(finding)) for finding in FOUR_FINDINGS), set_id])
        write_csv(four / f"{which}_labels.csv", (*ENTRY_COLUMNS, *FOUR_FINDINGS, "Set Id"), rows, "\r\n", last_newline=False)
        reads += read_four_findings(members, READERS[f"four_findings_{which}"], set_id, seed)
    reads.sort(key=lambda row: row[1])  # by film, both sets in one
    columns = ("Patient ID", "Image ID", "Reader ID", *FOUR_FINDINGS[:3], "Nodule/mass", "Set ID")
    write_csv(four / "individual_readers.csv", columns, reads, "\r\n", last_newline=False)

    shuffled = [all_test[k] for k in rng.permutation(len(all_test))]  # this set alone is in no order
    reads, labels = read_all_findings(shuffled, seed)
    findings = [finding.replace("_", " ") for finding in ALL_FINDINGS]
    write_csv(everything / "test_individual_readers.csv", ("Image ID", "Patient ID", "Reader ID", *findings), reads, "\n")
    write_csv(everything / "test_labels.csv", ("Image ID", "Patient ID", *findings), labels, "\n")


def entries_2017(films: list[Film], labels: list[str]) -> list[list[str]]:
    """Rows of `Data_Entry_2017.csv`, ages with their unit: an infant's in months or days, and one of them mistyped (NIH has 16 over 100)."""
    mistyped = next(film.image_id for film in films if not film.in_test and 20 <= film.age_years < 90)
    rows = []
    for film, label in zip(films, labels, strict=True):
        years = f"{round(film.age_years):03d}Y"
        age = f"{round(365 * film.age_years):03d}D" if film.age_years < 1 / 12 else f"{round(12 * film.age_years):03d}M" if film.age_years < 2 else years
        if film.image_id == mistyped:
            age = f"1{years[1:]}"
        width, height, spacing, _ = film.detector
        person = [f"{film.number:03d}", f"{film.patient_id:08d}", age, film.sex, film.view]
        rows.append([film.image_id, label, *person, str(width), str(height), spacing, spacing])
    return rows


def write_csv(path: Path, header: tuple[str, ...], rows: list[list[Any]], newline: str, last_newline: bool = True) -> None:
    """Cells joined by commas and never quoted: the headers hold their commas bare, as the published files do."""
    text = newline.join(",".join(map(str, row)) for row in [header, *rows])
    path.write_bytes((text + newline * last_newline).encode("ascii"))
