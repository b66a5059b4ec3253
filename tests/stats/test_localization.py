"""Mirrors stats/localization.py: everything against loops over pixels."""

import numpy as np
import pytest

from cxr.stats.localization import HEAT_THRESHOLDS, blob, box_share, detect, mean_difference_by_patient, overlap, peak, points_into

SIDE = 23


def maps(n: int) -> list[np.ndarray]:
    """Of few levels, so that there are ties and regions that touch at corners."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 6, (SIDE, SIDE)) / 5 for _ in range(n)]


def reached(heat: np.ndarray, threshold: float, row: int, column: int) -> set[tuple[int, int]]:
    """The hot pixels that can be walked to from one, side by side."""
    todo, seen = [(row, column)], set()
    while todo:
        y, x = todo.pop()
        if (y, x) in seen or not (0 <= y < SIDE and 0 <= x < SIDE) or heat[y, x] < threshold * heat.max():
            continue
        seen.add((y, x))
        todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return seen


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
def test_the_detected_box_is_the_smallest_around_what_can_be_walked_to_from_the_peak(threshold: float) -> None:
    for heat in maps(20):
        x, y = peak(heat)
        assert heat[int(y), int(x)] == heat.max()
        pixels = reached(heat, threshold, int(y), int(x))
        rows, columns = zip(*pixels, strict=True)
        assert detect(heat, threshold).tolist() == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def test_the_peak_of_a_level_top_is_in_its_middle() -> None:
    heat = np.zeros((9, 9))
    heat[2:5, 4:9] = 1
    assert peak(heat).tolist() == [6.5, 3.5]


def test_an_empty_map_points_nowhere_and_overlaps_with_nothing() -> None:
    empty, boxes = np.zeros((5, 5)), np.array([[0.0, 0.0, 5.0, 5.0]])
    assert not points_into(peak(empty)[None], boxes).any()
    iou, iobb = overlap(detect(empty, 0.5)[None], boxes)
    assert (iou.tolist(), iobb.tolist()) == ([0.0], [0.0])


def test_overlaps_equal_counted_pixels() -> None:
    """Of whole pixels, on a sheet larger than the map, for a box may reach beyond."""
    rng = np.random.default_rng(1)
    corners = np.sort(rng.integers(0, 12, (300, 2, 2)), axis=1).reshape(300, 4)
    corners[:, 2:] += 1
    one, other = corners[::2].astype(float), corners[1::2].astype(float)
    iou, iobb = overlap(one, other)
    for k in range(len(one)):
        sheets = np.zeros((2, 14, 14), bool)
        for sheet, (x, y, right, below) in zip(sheets, (one[k].astype(int), other[k].astype(int)), strict=True):
            sheet[y:below, x:right] = True
        assert iou[k] == pytest.approx((sheets[0] & sheets[1]).sum() / (sheets[0] | sheets[1]).sum())
        assert iobb[k] == pytest.approx((sheets[0] & sheets[1]).sum() / sheets[0].sum())


def test_a_random_point_falls_into_a_box_as_often_as_its_share_says() -> None:
    boxes = np.array([[3.2, 4.0, 17.9, 11.5], [-5.0, 8.0, 6.0, 40.0]])
    points = np.random.default_rng(0).uniform(0, SIDE, (40_000, 2))
    for box, share in zip(boxes, box_share(boxes, SIDE), strict=True):
        assert points_into(points, np.tile(box, (len(points), 1))).mean() == pytest.approx(share, abs=0.01)


def test_a_blob_has_its_peak_where_it_was_put_and_grows_as_the_threshold_falls() -> None:
    heat = blob(17.2, 5.9, 64)
    assert peak(heat).tolist() == [17.5, 5.5]
    areas = [np.prod(detect(heat, threshold)[2:] - detect(heat, threshold)[:2]) for threshold in HEAT_THRESHOLDS]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 20 * areas[-1]


def test_a_difference_is_of_the_same_patients() -> None:
    patients = np.repeat(np.arange(30), 2)
    one = np.random.default_rng(0).random(60)
    estimate = mean_difference_by_patient(one + 0.25, one, patients, n_draws=200, seed=0)
    assert estimate == pytest.approx((0.25, 0.25, 0.25))
