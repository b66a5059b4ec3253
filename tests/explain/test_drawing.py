"""Mirrors explain/drawing.py."""

import numpy as np

from cxr.explain.drawing import overlay


def test_cold_pixels_are_the_film_and_hot_ones_are_warm() -> None:
    film = np.random.default_rng(0).integers(0, 120, (16, 16), dtype=np.uint8)
    heat = np.zeros((16, 16), np.float32)
    heat[4:8, 4:8] = 1
    drawn = overlay(film, heat)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (16, 16, 3))
    np.testing.assert_array_equal(drawn[heat == 0], np.repeat(film[heat == 0][:, None], 3, axis=1))
    red, _, blue = drawn[heat == 1].T.astype(int)
    assert (red > blue).all()
