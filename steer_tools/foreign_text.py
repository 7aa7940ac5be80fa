"""Texts that anybody may have written (files, models, people) → texts that show each letter of theirs and do nothing.

Whatever leaves for a terminal, a page, an error or a client's screen goes through `visible`; what a place needs on top
(Markdown's signs, HTML's) is small. It must not know where a text goes.
"""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

# What is not seen, acts on a terminal, reorders what is around it, or cannot be encoded. Scripts and emoji need
# the joiners U+200C and U+200D, selectors of a glyph, and the Arabic signs that Unicode calls "format": they are kept.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # Controls: escape codes, BEL, backspace, DEL, C1.
    "\xad\u034f\u061c\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # Nothing to be seen, single ones.
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # Zero width, line ends, directions.
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff"  # Halves of pairs, private use, what is no character.
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"  # Tags and what is behind.
    # Joiners and selectors do something once; in a row they only hide a message.
    "|(?<=[\u200c\u200d])[\u200c\u200d\ufe00-\ufe0f]|(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]"
)
_HALF = re.compile("[\ud800-\udfff]")
_Escape: TypeAlias = Callable[[re.Match[str]], str]


def visible(text: str, *, but: str = "") -> str:
    """Return a text with what is hidden in it written out, as in `\\x1b` or `\\u202e`, `but` for some characters."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in but else _written_out(found), text)


def lines_of(text: str) -> str:
    """Return a text that may have lines, visible but for line ends and tabs."""
    return visible(text, but="\n\t")


def encodable(text: str) -> str:
    """Return a text exactly, but for halves of surrogate pairs, which UTF-8 cannot hold: these are written out."""
    return _HALF.sub(_written_out, text)


class Markup(str):
    """HTML or SVG that `element` made: no text of anybody's acts in it."""

    __slots__ = ()


def element(name: str, *inside: str, **attributes: object) -> Markup:
    """Return an element of HTML or SVG; what is inside and in its attributes is text, unless it is `Markup`.

    An underscore in an attribute's name stands for a hyphen, but at its end for nothing.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_in_markup(str(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{said}>{''.join(map(_in_markup, inside))}</{name}>")


def page(title: str, *inside: Markup) -> Markup:
    """Return a page of HTML, which loads nothing and runs nothing; what is inside stands in lines of its own."""
    safe = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<!doctype html>\n<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{safe}">'
    return Markup("\n".join([head + element("title", title), *inside]) + "\n")


def in_results(value: Any, exact: frozenset[str], key: str = "") -> Any:
    """Return what JSON can hold, for a client: texts under the keys `exact` as they are but for what cannot be encoded,
    all others visible; so are the keys of what is below.
    """
    match value:
        case str():
            return encodable(value) if key in exact else lines_of(value)
        case Mapping():
            named = encodable if key in exact else lines_of
            entries = [(str(name), inner) for name, inner in cast(Mapping[object, Any], value).items()]
            return {named(name): in_results(inner, exact, key if key in exact else name) for name, inner in entries}
        case list() | tuple():
            return [in_results(inner, exact, key) for inner in cast(list[Any], value)]
        case _:
            return value


def _in_markup(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(lines_of(text), quote=True)


def _written_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
