"""Mirrors explain/geometry.py: a box that is known in the film is where the geometry says, after the real prepare, store and crop."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxr.data.decode import Reading
from cxr.data.store import build_store
from cxr.explain.geometry import Geometry


def covered(corners: np.ndarray, n: int) -> np.ndarray:
    """(n, n): how much of every pixel lies within the box."""
    edges = np.arange(n + 1)
    rows, columns = (np.clip(np.minimum(edges[1:], hi) - np.maximum(edges[:-1], lo), 0, 1) for lo, hi in (corners[[1, 3]], corners[[0, 2]]))
    return np.outer(rows, columns)


@pytest.mark.parametrize(
    ("width", "height", "fit", "store_size", "image_size"),
    [(1024, 1024, "pad", 256, 224), (1024, 1024, "pad", 146, 128), (300, 211, "pad", 64, 49), (211, 300, "pad", 100, 64), (301, 200, "crop", 73, 64)],
)
def test_a_box_of_the_film_is_found_in_the_networks_input(tmp_path: Path, width: int, height: int, fit: str, store_size: int, image_size: int) -> None:
    x, y, right, below = corners = np.array([width // 2 - 31, height // 2 - 47, width // 2 + 22, height // 2 + 35])
    film = np.zeros((height, width), np.uint8)
    film[y:below, x:right] = 255
    cv2.imwrite(str(tmp_path / "film.png"), film)
    store = build_store(tmp_path / "store", {"film.png": tmp_path / "film.png"}, size=store_size, source="", package_version="", reading=Reading(fit=fit))
    at = (store_size - image_size) // 2
    seen = torch.from_numpy(np.array(store.images))[..., at : at + image_size, at : at + image_size].numpy()[0]  # as Classifier.forward has it

    found = Geometry(width, height, store_size, image_size, fit).film_to_input(corners)
    # a pixel that the box covers by a third is a third as bright: this holds only if both are on the same grid, to a hundredth of a pixel
    assert np.abs(seen - 255 * covered(found, image_size)).max() < 2


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_there_and_back_again_is_where_one_was(fit: str) -> None:
    geometry = Geometry(1021, 768, 300, 257, fit)
    points = np.random.default_rng(0).uniform(0, 700, (5, 3, 4))
    np.testing.assert_allclose(geometry.input_to_film(geometry.film_to_input(points)), points, rtol=0, atol=1e-9)
    np.testing.assert_allclose(geometry.store_to_film(geometry.film_to_store(points)), points, rtol=0, atol=1e-9)


def test_a_map_of_the_input_lies_on_the_stored_film_where_the_network_looked() -> None:
    heat = np.random.default_rng(0).random((2, 7, 7), np.float32)
    geometry = Geometry(100, 100, 10, 7)
    spread = geometry.on_store(heat)
    assert spread.shape == (2, 10, 10)
    at = geometry.margin
    np.testing.assert_array_equal(spread[:, at : at + 7, at : at + 7], heat)
    assert spread.sum() == pytest.approx(heat.sum())
