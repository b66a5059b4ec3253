"""Where a point of the network's input lies in the stored film and in the film as it came, and back.

Coordinates are those of edges: pixel k reaches from k to k + 1 and its centre lies at k + 0.5. That is how cv2.resize sees pixels (an area of the film becomes
a pixel of the store), so that one factor carries over, and no half pixel is lost.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """A film's way to the network: made square (`cxr.data.decode.resize_square`), resized into the store, and its centre cut out (`Classifier.forward`).

    Attributes:
        width, height: of the film as it came, in the pixels that its boxes are told in (not those of a file that someone has made smaller).
        store_size: side of the stored film in pixels.
        image_size: side of the network's input in pixels.
        fit: what became of a film that is not square: "pad" or "crop".
    """

    width: int
    height: int
    store_size: int
    image_size: int
    fit: str = "pad"

    @property
    def side(self) -> int:
        """Of the square that the film was made into, in its own pixels."""
        return max(self.width, self.height) if self.fit == "pad" else min(self.width, self.height)

    @property
    def scale(self) -> float:
        """Pixels of the store, and of the input, to a pixel of the film."""
        return self.store_size / self.side

    @property
    def margin(self) -> int:
        """Pixels of the stored film left of the input, and above it; `Classifier.forward` has the same line."""
        return (self.store_size - self.image_size) // 2

    def film_to_store(self, coordinates: np.ndarray) -> np.ndarray:
        """(..., 2k) x, y, x, y ... in the film to float64 in the stored film; what was cut away lies outside of 0 to store_size."""
        return (_pairs(coordinates) + self._padding()).reshape(coordinates.shape) * self.scale

    def store_to_film(self, coordinates: np.ndarray) -> np.ndarray:
        return (_pairs(coordinates) / self.scale - self._padding()).reshape(coordinates.shape)

    def film_to_input(self, coordinates: np.ndarray) -> np.ndarray:
        """(..., 2k) x, y, x, y ... in the film to float64 in the network's input; what the crop cuts away lies outside of 0 to image_size.

        >>> corners = np.array([256, 512, 512, 1024])
        >>> Geometry(1024, 1024, store_size=256, image_size=224).film_to_input(corners)
        array([ 48., 112., 112., 240.])
        """
        return self.film_to_store(coordinates) - self.margin

    def input_to_film(self, coordinates: np.ndarray) -> np.ndarray:
        return self.store_to_film(np.asarray(coordinates, np.float64) + self.margin)

    def on_store(self, heat: np.ndarray) -> np.ndarray:
        """(..., image_size, image_size) of the input to (..., store_size, store_size) of the stored film; 0 where the network did not look."""
        after = self.store_size - self.image_size - self.margin
        return np.pad(heat, [(0, 0)] * (heat.ndim - 2) + [(self.margin, after)] * 2)

    def _padding(self) -> np.ndarray:
        """Black pixels left of the film and above it; negative where it was cut. They are whole ones, as `resize_square` counts them."""
        sides = np.array([self.width, self.height])
        return (self.side - sides) // 2 if self.fit == "pad" else -((sides - self.side) // 2)


def _pairs(coordinates: np.ndarray) -> np.ndarray:
    return np.asarray(coordinates, np.float64).reshape(-1, 2)
