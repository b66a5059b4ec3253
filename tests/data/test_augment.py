"""Mirrors data/augment.py: a film's augmentation is a function of (seed, epoch, film)."""

import random

import numpy as np
import pytest

from cxr.data.augment import film_key, make_augment

FILM = np.random.default_rng(0).integers(0, 256, (72, 72), dtype=np.uint8)
STRONG = {
    "image_size": 64,
    "affine_p": 0.5,
    "rotate_degrees": 10.0,
    "scale": 0.1,
    "translate": 0.1,
    "brightness": 0.2,
    "contrast": 0.2,
    "horizontal_flip_p": 0.5,
}
NOTHING = STRONG | {"affine_p": 0.0, "brightness": 0.0, "contrast": 0.0, "horizontal_flip_p": 0.0}


def test_the_same_key_gives_the_same_film_whatever_came_before() -> None:
    one, other = make_augment(seed=1, **STRONG), make_augment(seed=1, **STRONG)
    in_order = {(epoch, film): one(FILM, epoch, film) for epoch in range(3) for film in range(20)}
    random.seed(3)
    for epoch, film in random.sample(sorted(in_order), len(in_order)):
        np.testing.assert_array_equal(other(FILM, epoch, film), in_order[epoch, film])


def test_seed_epoch_and_film_each_change_it() -> None:
    results = {make_augment(seed=seed, **STRONG)(FILM, epoch, film).tobytes() for seed in range(4) for epoch in range(4) for film in range(4)}
    assert len(results) == 64


def test_global_random_states_are_neither_read_nor_moved() -> None:
    augment = make_augment(seed=0, **STRONG)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = augment(FILM, 0, 1)
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    augment(FILM, 1, 2)
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
    np.testing.assert_array_equal(augment(FILM, 0, 1), before)


def test_crops_reach_every_position_equally_often() -> None:
    augment = make_augment(seed=0, **NOTHING)
    marked = np.add.outer(np.arange(72), 100 + np.arange(72)).astype(np.uint8)  # the first pixel tells row + column
    tops = [int(augment(marked, 0, film)[0, 0]) - 100 for film in range(4_000)]
    counts = np.bincount(tops, minlength=17)
    expected = np.convolve(np.ones(9), np.ones(9)) / 81 * 4_000  # the sum of two uniform offsets from 0 to 8
    assert ((counts - expected) ** 2 / expected).sum() < 39.3  # chi-squared, 16 degrees of freedom, p = 0.001


def test_without_anything_random_but_the_crop_pixels_are_untouched() -> None:
    crop = make_augment(seed=0, **NOTHING)(FILM, 0, 5)
    windows = np.lib.stride_tricks.sliding_window_view(FILM, (64, 64))
    assert (windows == crop).all(axis=(2, 3)).sum() == 1


def test_a_flip_happens_as_often_as_asked() -> None:
    symmetric_crop = NOTHING | {"image_size": 72, "horizontal_flip_p": 0.3}
    augment = make_augment(seed=0, **symmetric_crop)
    flipped = [np.array_equal(augment(FILM, 0, film), FILM[:, ::-1]) for film in range(1_000)]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.05)


def test_a_film_keeps_its_number_and_no_two_share_one() -> None:
    names = [f"{patient:08d}_{film:03d}.png" for patient in range(2_000) for film in range(10)]
    assert len({film_key(name) for name in names}) == len(names)
    assert film_key("00000001_000.png") == 9_092_785_023_711_875_664
