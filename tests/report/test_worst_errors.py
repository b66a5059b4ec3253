"""Mirrors report/worst_errors.py: against a loop over all pairs of films."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.report.worst_errors import gallery, worst_errors


def test_the_worst_errors_are_those_of_a_loop_over_pairs_and_come_with_everybodys_opinion(evaluated: Any) -> None:
    reference, scores = evaluated.references["all_findings_test"], evaluated.scores["all_findings_test"].sample(frac=1.0, random_state=0)
    errors = worst_errors(scores, reference, "Effusion", n=3)

    truth, score = reference.films.set_index("image_id")["Effusion"], scores["Effusion"]
    present, absent = [film for film in score.index if truth[film] == 1], [film for film in score.index if truth[film] == 0]
    missed = [film for film in present if any(score[film] < score[other] for other in absent)]
    alarms = [film for film in absent if any(score[film] > score[other] for other in present)]
    assert errors.image_id.tolist() == [*sorted(missed, key=lambda film: score[film])[:3], *sorted(alarms, key=lambda film: -score[film])[:3]]
    assert errors.error.tolist() == ["miss"] * 3 + ["false alarm"] * 3
    mined = reference.text_mined["Effusion"].set_axis(reference.films.image_id)
    for _, row in errors.iterrows():
        assert row.reference == truth[row.image_id]
        assert row.text_mined == mined[row.image_id]
        assert row.scored_lower == pytest.approx(np.mean([score[other] < row.score for other in score.index if other != row.image_id]))
        read = reference.reads[reference.reads.image_id == row.image_id].set_index("reader_id")["Effusion"]
        assert row[read.index].tolist() == read.tolist()


def test_a_model_that_tells_all_apart_has_no_error(evaluated: Any) -> None:
    reference = evaluated.references["nih_test"]
    perfect = reference.films.set_index("image_id")[["Effusion"]]
    errors = worst_errors(perfect, reference, "Effusion", n=3)
    assert errors.empty
    assert [text.get_text() for text in gallery(np.zeros((0, 8, 8), np.uint8), errors, "Effusion").texts] == ["Effusion: no error"]


def test_a_finding_without_label_or_score_is_refused_with_those_there_are(evaluated: Any) -> None:
    for finding in ("Fracture", "Effusion"):
        with pytest.raises(ValueError, match=f"four_findings_test and the model have no {finding} in common; there are Pneumothorax"):
            worst_errors(evaluated.scores["four_findings_test"], evaluated.references["four_findings_test"], finding, n=3)


def test_the_gallery_shows_each_film_with_its_score_labels_and_votes() -> None:
    keys = ["error", "image_id", "score", "scored_lower", "reference", "text_mined", "a", "b", "c"]
    rows = [
        ["miss", "1.png", -1.25, 0.1, 1.0, np.nan, 1.0, 0.5, np.nan],
        *[["false alarm", f"{i}.png", 0.5, 0.9, 0.0, 1.0, 0.0, 0.0, 1.0] for i in range(2, 5)],
    ]
    films = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    figure = gallery(films, pd.DataFrame(rows, columns=keys), "Pleural_Thickening", columns=2)
    drawn = [panel.images[0].get_array() for panel in figure.axes]
    assert np.array_equal(drawn, films)
    words = ["\n".join(text.get_text() for text in panel.texts) for panel in figure.axes]
    assert words[0] == "Miss\n1.png\nscore −1.25, above 10.0 % of the others\nlabel yes\nreaders: 1 yes, 1 uncertain"
    assert words[3] == "False alarm\n4.png\nscore 0.50, above 90.0 % of the others\nlabel no, text mining yes\nreaders: 1 yes, 2 no"
    boxes = [panel.get_position() for panel in figure.axes]
    assert [(a, b) for a in range(4) for b in range(a) if boxes[a].overlaps(boxes[b])] == []
