"""cxr: train chest X-ray classifiers on NIH ChestX-ray14, and learn how good they really are."""

__version__ = "0.1.0"
