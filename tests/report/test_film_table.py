"""Mirrors report/film_table.py: what was kept of a prediction is what it goes on with, or nothing is (going on itself: test_predicting.py)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.report.film_table import FilmTable, FilmTableError

IDENTITY = {"films_sha256": "ab", "batch_size": 4}
FILMS = pd.DataFrame({"image_id": ["a.png", "b.png", "c.png"], "path": "x.png", "reason": ["", "truncated", ""], "logit_Mass": [0.5, np.nan, -1.25]})


def half_done(output: Path) -> Path:
    """The folder of two parts."""
    with FilmTable(output, IDENTITY) as table:
        table.add(FILMS)
        table.add(FILMS.assign(image_id=["d.png", "e.png", "f.png"]))
    return output.with_name(f"{output.name}.partial")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_parts_of_two_sittings_make_one_table(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"told.{suffix}"
    half_done(output)
    with FilmTable(output, IDENTITY) as table:
        assert table.n_parts == 2
        assert table.finish() == {"n_films": 4, "n_quarantined": 2}
    told = pd.read_csv(output) if suffix == "csv" else pd.read_parquet(output)
    assert told.image_id.tolist() == ["a.png", "c.png", "d.png", "f.png"]
    assert told.logit_Mass.tolist() == [0.5, -1.25] * 2
    assert not list(tmp_path.glob("*.partial"))


def test_a_damaged_part_is_named_before_any_film_is_predicted(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: arrow said what it liked, after the last film."""
    output, rng = tmp_path / "told.csv", np.random.default_rng(0)
    part = half_done(output) / "000001.part"
    whole = part.read_bytes()
    for at in rng.integers(len(whole), size=40):
        spoiled = bytearray(whole)
        spoiled[at] ^= int(rng.integers(1, 256))
        part.write_bytes(spoiled if at % 2 else whole[:at])
        with pytest.raises(FilmTableError, match=r"000001\.part is damaged; delete it, and its films and those after them are predicted again"):
            FilmTable(output, IDENTITY)
    part.unlink()
    with FilmTable(output, IDENTITY) as table:
        assert table.n_parts == 1
