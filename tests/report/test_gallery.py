"""Mirrors report/gallery.py: the errors are those of a loop over films, and the page shows them, harms nobody and needs nothing from outside."""

import base64
import copy
import io
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.report import gallery

NAME, FINDING = "four_findings_test", "Airspace opacity"
HOSTILE = "<script>alert('x')</script> \"q\" <img src=x onerror=y>"


class Page(HTMLParser):
    """A page as its tags and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_errors_are_those_beyond_the_fixed_threshold_the_surest_first(evaluated: Any) -> None:
    sets, scores, references = evaluated.report["reference_sets"], evaluated.scores, evaluated.references
    found = gallery.confident_errors(sets, scores, references, n=3)
    assert {of.name for of in found} == {"all_findings_test", "four_findings_test", "four_findings_validation"}
    for of in found:
        points = sets[of.name]["findings"][of.finding]["operating_points"]
        assert (of.threshold is None) == (points["source"] is None)
    of = next(of for of in found if (of.name, of.finding) == (NAME, FINDING))
    limit = sets[NAME]["findings"][FINDING]["operating_points"]["rules"]["specificity"]["threshold"]
    score, films = scores[NAME][FINDING], references[NAME].films.set_index("image_id")
    missed = sorted((score[film], film) for film in score.index if films[FINDING][film] == 1 and score[film] < limit)
    alarms = sorted((-score[film], film) for film in score.index if films[FINDING][film] == 0 and score[film] >= limit)
    assert of.threshold == limit
    assert (of.n_misses, of.n_false_alarms) == (len(missed), len(alarms))
    assert of.table.image_id.tolist() == [film for _, film in missed[:3]] + [film for _, film in alarms[:3]]
    for _, row in of.table.iterrows():
        assert row[["view", "sex", "age"]].tolist() == films.loc[row.image_id, ["view", "sex", "age"]].tolist()


def shown(evaluated: Any, **changed: Any) -> tuple[Page, str, gallery.Errors, list[Any]]:
    found = gallery.confident_errors(evaluated.report["reference_sets"], evaluated.scores, evaluated.references, n=2)
    of = next(of for of in found if (of.name, of.finding) == (NAME, FINDING))
    of = replace(of, table=of.table.assign(**changed))
    rng = np.random.default_rng(0)
    pictures = [(rng.integers(256, size=(16, 16), dtype=np.uint8), rng.integers(256, size=(16, 16, 3), dtype=np.uint8)) for _ in of.table.image_id]
    html = gallery.page([of], [pictures], [["Edema"] * len(of.table)], model=str(changed.get("view", "densenet121")), data="cxr14").decode()
    return Page(html), html, of, pictures


def test_a_film_stands_with_its_heat_map_score_labels_votes_and_who_it_is_of(evaluated: Any) -> None:
    page, _, of, pictures = shown(evaluated)
    sources = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    drawn = [Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,")))) for source in sources]
    assert [picture.mode for picture in drawn] == ["L", "RGB"] * len(pictures)
    assert [picture.size for picture in drawn] == [(16, 16)] * 2 * len(pictures)
    answers = {1.0: "yes", 0.0: "no", 0.5: "uncertain"}
    reads = evaluated.references[NAME].reads.set_index("image_id")[FINDING]
    for _, row in of.table.iterrows():
        votes = pd.Series(reads.loc[row.image_id]).map(answers).value_counts()
        told = ", ".join(f"{votes[answer]} {answer}" for answer in ("yes", "no", "uncertain") if answer in votes)
        for words in (
            f"{row.error.capitalize()} {row.image_id} score {row.score:.2f}, threshold {of.threshold:.2f};".replace("-", "−"),
            f"radiologists' label {answers[row.reference]}, text mining {answers[row.text_mined]} readers: {told}",
            f"{row['view']}, {row.sex}, {row.age:.0f} years",
        ):
            assert words in page.text
    assert f"{of.n_misses:,} of {of.n_pos:,} films with it are missed" in page.text
    assert "heat map: Edema" in page.text
    assert "This page holds pixels of patients" in page.text


def test_a_network_that_has_no_heat_map_shows_its_films_alone(evaluated: Any) -> None:
    _, _, of, pictures = shown(evaluated)
    html = gallery.page([of], [[(film, None) for film, _ in pictures]], [["Edema"] * len(of.table)], model="m", data="mini").decode()
    assert html.count("<img") == html.count('alt="film"') == len(pictures)
    assert "heat map: " not in html
    assert "drawn by a program" in html


def test_the_page_needs_nothing_from_outside_and_hostile_strings_do_nothing(evaluated: Any) -> None:
    harmless, (page, html, *_) = shown(evaluated)[0], shown(evaluated, view=HOSTILE, sex=HOSTILE, image_id=HOSTILE)
    assert "<script" not in html
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    assert " ".join(HOSTILE.split()) in page.text
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert [attributes["href"] for _, attributes in page.tags if "href" in attributes] == ["report.html"]
    assert all(str(attributes["src"]).startswith("data:image/jpeg;base64,") for _, attributes in page.tags if "src" in attributes)


def test_a_model_without_an_error_has_no_gallery(evaluated: Any) -> None:
    report = copy.deepcopy(evaluated.report["reference_sets"])
    for part in report.values():
        for row in part["findings"].values():
            row.pop("operating_points", None)
    perfect = {name: reference.films.set_index("image_id")[list(reference.findings)] for name, reference in evaluated.references.items()}
    assert gallery.confident_errors(report, perfect, evaluated.references, n=3) == []


@pytest.mark.parametrize("threshold", [None, -1.5])
def test_without_a_threshold_an_error_is_told_as_one_of_rank(evaluated: Any, threshold: float | None) -> None:
    found = gallery.confident_errors(evaluated.report["reference_sets"], evaluated.scores, evaluated.references, n=1)
    told = gallery._told(replace(found[0], threshold=threshold))
    assert ("No threshold was fixed" in told) == (threshold is None)
