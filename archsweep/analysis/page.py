"""What runs on the page, and what it may: two scripts, allowed by their hashes, and data that no name can break out of.

plotly.js lies in the page compressed; the page's own script unpacks it when the first figure comes into view, so a page opens
without it, and stays at a third of its size.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from archsweep.analysis.words import Number

if TYPE_CHECKING:
    from archsweep.analysis.tables import Table

ROWS_SHOWN = 100  # of a table, in the page's HTML and on each of its leaves; the rest is data until it is leafed to
FILTERED_FROM = 16  # rows from which a table has a field to filter it


class Library(NamedTuple):
    """plotly.js, compressed as text for the page, and the hash by which the page may run it."""

    packed: str
    hash: str


@cache
def plotly_js() -> Library:
    source = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return Library(base64.b64encode(gzip.compress(source, mtime=0)).decode(), _hash(source))


@cache
def own_script() -> Markup:
    return Markup((files("archsweep.analysis") / "templates" / "page.js").read_text())


def policy() -> str:
    """The page's Content-Security-Policy: nothing is loaded, and nothing runs but the two scripts that it was made with."""
    scripts = f"'{_hash(own_script().encode())}' '{plotly_js().hash}'"
    return f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def embedded(data: object) -> Markup:
    """Data as JSON for a script element of type application/json: it can neither end the element nor begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def rows_beyond(table: Table) -> list[list[Any]]:
    """The rows that a page's HTML leaves to its script: a text for each cell, or text and value where it is a number that JSON has."""
    return [[_cell(cell) for cell in row] for row in table.rows[ROWS_SHOWN:]]


def _cell(cell: str) -> str | list[Any]:
    return [str(cell), cell.value] if isinstance(cell, Number) and isfinite(cell.value) else str(cell)


def value(cell: Number) -> str:
    """A number's value as the page's script reads it, for which "inf" is none."""
    return str(float(cell.value)).replace("inf", "Infinity")


def _hash(source: bytes) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source).digest()).decode()}"
