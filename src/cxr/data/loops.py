"""Loops over bytes in plain Python, which numba compiles where it is installed; loaded by the first film that needs one, never by an import."""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

_compiling = Lock()


def compiled(function: Callable[..., Any], signature: Callable[[Any], Any]) -> Callable[..., Any] | None:
    """The function compiled, or read from where an earlier process left it (beside its file, or in the user's cache); None if that cannot be done.

    Args:
        function: of arrays and numbers; one of a module.
        signature: numba.types -> numba's signature of it; one of a module too, for both are how a second call is known.
    """
    with _compiling:
        return _compile(function, signature)


@cache
def _compile(function: Callable[..., Any], signature: Callable[[Any], Any]) -> Callable[..., Any] | None:
    try:
        import numba

        if numba.config.DISABLE_JIT:
            return None
        signed = signature(numba.types)
        try:
            return numba.njit(signed, nogil=True, cache=True)(function)
        except RuntimeError:  # no folder to keep it in can be written
            return numba.njit(signed, nogil=True)(function)
    except Exception:  # whatever a compiler may fail with, there is another way to every film
        return None
