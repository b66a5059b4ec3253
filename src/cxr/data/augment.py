"""Augmentation that is a function of (seed, epoch, film), and of nothing else.

albumentations 2.0.8 gives every DataLoader worker the same random stream, and the same again in every epoch when workers restart. Here one
counter-based generator (Philox, Salmon et al. 2011) serves all transforms, and its counter is set before each film: no stream, so nothing to
repeat, and nothing that the number of workers or a restart could change.
"""

import os

# it would ask the network for its newest version at import
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import random
from hashlib import blake2b
from itertools import chain

import albumentations as A
import cv2
import numpy as np


class KeyedAugment:
    """Augments one grey film after another, each by its own key.

    Args:
        transforms: albumentations transforms for (H, W) uint8, ending in a crop.
        seed: of the run.
    """

    def __init__(self, transforms: list[A.BasicTransform], seed: int):
        self._bits = np.random.Philox(key=seed)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)
        self._python = _PythonRandom(self._generator)
        self.transforms = transforms
        for transform in transforms:
            transform.set_random_state(self._generator, self._python)

    def __call__(self, film: np.ndarray, epoch: int, film_key: int) -> np.ndarray:
        """One augmented film.

        Args:
            film: (H, W) uint8.
            epoch: counted from 0.
            film_key: `film_key(image_id)`.
        """
        # words of the 256-bit counter: the draws of one film count in the lowest
        self._state["state"]["counter"][:] = (0, 0, epoch, film_key)
        self._state["buffer_pos"], self._state["has_uint32"] = 4, 0
        self._bits.state = self._state
        self._python.begin()
        # A.Compose itself would draw a number, call these one after another, and check every film for what cannot happen here: 3 % of the time
        self._python.random()
        data = {"image": film}
        for transform in self.transforms:
            data = transform(**data)
        return data["image"]


class _PythonRandom(random.Random):
    """Python's random interface on the shared generator; albumentations draws from both kinds."""

    N_AHEAD = 16  # what the default recipe draws for a film, at most; drawn at once, each costs a tenth

    def __init__(self, generator: np.random.Generator):
        super().__init__()
        self._generator = generator
        self._one_by_one = iter(generator.random, None)
        self.begin()

    def begin(self) -> None:
        """Starts anew from where the generator's counter stands."""
        self.random = chain(self._generator.random(self.N_AHEAD).tolist(), self._one_by_one).__next__
        self.gauss_next = None

    def getrandbits(self, k: int) -> int:
        if k <= 53:  # what one draw of random() holds; ten times as fast as bytes
            return int(self.random() * 2**k)
        return int.from_bytes(self._generator.bytes((k + 7) // 8), "little") >> (-k % 8)


def film_key(image_id: str) -> int:
    """A film's own 64-bit number, the same in every study that holds the film."""
    return int.from_bytes(blake2b(image_id.encode(), digest_size=8).digest(), "little")


def make_augment(
    *,
    image_size: int,
    seed: int,
    affine_p: float,
    rotate_degrees: float,
    scale: float,
    translate: float,
    brightness: float,
    contrast: float,
    horizontal_flip_p: float,
) -> KeyedAugment:
    """The training recipe; the only place that names a transform.

    Args:
        image_size: side of the random crop in pixels.
        seed: of the run.
        affine_p: how often a film is rotated, scaled and shifted at all.
        rotate_degrees: at most so far to either side.
        scale: at most this fraction larger or smaller.
        translate: at most this fraction of the side.
        brightness, contrast: at most this fraction up or down.
        horizontal_flip_p: how often left and right are exchanged; 0 by default, for it moves the heart to the other side.
    """
    cv2.setNumThreads(1)  # films of this size are not worth a thread, and OpenCV's threads do not survive a fork
    transforms: list[A.BasicTransform] = []
    if affine_p:
        transforms.append(
            A.Affine(
                rotate=(-rotate_degrees, rotate_degrees),
                scale=(1 - scale, 1 + scale),
                translate_percent=(-translate, translate),
                interpolation=cv2.INTER_LINEAR,
                p=affine_p,
            )
        )
    transforms.append(A.RandomCrop(image_size, image_size))
    if horizontal_flip_p:
        transforms.append(A.HorizontalFlip(p=horizontal_flip_p))
    if brightness or contrast:
        transforms.append(A.RandomBrightnessContrast(brightness_limit=brightness, contrast_limit=contrast, p=0.5))
    return KeyedAugment(transforms, seed)
