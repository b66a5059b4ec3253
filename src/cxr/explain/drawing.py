"""A heat map over its film."""

import cv2
import numpy as np

# how much of the film the hottest pixel covers
COVER = 0.6


def overlay(film: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The film with warmer colours where the map is hotter; where it is cold, the film itself.

    Args:
        film: (H, W) uint8, 0 black.
        heat: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) uint8, red, green, blue. The colours (inferno) grow evenly brighter, so that they read the same in print and to the colour-blind.

    >>> overlay(np.full((1, 2), 100, np.uint8), np.array([[0.0, 1.0]], np.float32)).tolist()
    [[[100, 100, 100], [191, 193, 138]]]
    """
    colours = cv2.cvtColor(cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    cover = COVER * heat[..., None]
    blended: np.ndarray = ((1 - cover) * film[..., None] + cover * colours).round().astype(np.uint8)
    return blended
