"""What the site makes of docstrings: doctests become blocks of code, roles plain names."""

import re
from typing import Any

from griffe import Extension, Object

DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)  # up to the next empty line
ROLE = re.compile(r":\w+:`~?(.+?)`")


class Docstrings(Extension):
    """Rewrites the docstrings that are collected."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text
            )
