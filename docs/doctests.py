"""Examples of docstrings as code on the reference pages: an extension of griffe, by which mkdocstrings reads them."""

import re

import griffe


class Doctests(griffe.Extension):
    """Fences every paragraph that begins with a prompt."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^>>> (?:.+\n?)+", lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", obj.docstring.value)
