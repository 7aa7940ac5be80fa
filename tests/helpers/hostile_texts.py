"""Texts that act on whoever shows them raw, each around words that a reader must still see."""

from __future__ import annotations

import re
import unicodedata

WORDS = "readable words"
HOSTILE = {
    "colour": f"\x1b[31m{WORDS}\x1b[0m",
    "link of a terminal": f"\x1b]8;;http://evil.example\x1b\\{WORDS}\x1b]8;;\x1b\\",
    "clipboard": f"\x1b]52;c;ZXZpbA==\x07{WORDS}",
    "title": f"\x1b]0;owned\x07{WORDS}",
    "cleared screen": f"\x1b[2J\x1b[H{WORDS}",
    "C1 controls": f"\x9b31m{WORDS}\x9d0;owned\x9c",
    "overwritten line": f"hidden\r{WORDS}",
    "backspaces": f"xxx\b\b\b{WORDS}\x7f",
    "bidi": f"\u202e{WORDS}\u2066\u200f\u061c",
    "line separators": f"\u2028{WORDS}\u2029\x85\x0b\x0c",
    "tags": f"{WORDS}\U000e0049\U000e0047\U000e004e\U000e004f\U000e0052\U000e0045",
    "zero width": f"\u200b{WORDS}\u2060\ufeff\xad",
    "variation selectors": f"{WORDS}\ufe00\ufe01\ufe02\U000e0101",
    "half a pair": f"{WORDS}\ud800",
    "NUL": f"\x00{WORDS}",
    "markup of rich": f"[red]{WORDS}[/red][link=http://evil.example]x[/link]",
    "unopened markup of rich": f"[/]{WORDS}[/bold]",
    "picture in Markdown": f"![x](http://evil.example/p.png) {WORDS}",
    "link in Markdown": f"[x](javascript:alert(1)) {WORDS}",
    "end of a cell": f"| {WORDS} |\n| --- |",
    "heading in Markdown": f"\n\n# {WORDS}\n```\n",
    "script": f"<script>alert(1)</script>{WORDS}",
    "end of an attribute": f"\"><img src=x onerror=alert(1)>'{WORDS}",
    "formula": rf"$\frac{{$ {WORDS} $x^$",
}
# What is written out, told by Unicode's own tables; but for what scripts need.
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
# Codes of rich itself: styles, and what moves the cursor for a bar.
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def hidden_in(text: str) -> list[str]:
    """Return the characters of a text that act or are not seen."""
    return [
        letter
        for letter in text
        if (unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} or letter >= "\U000e0000")
        and letter not in _KEPT
    ]


def without_styles(text: str) -> str:
    """Return what a terminal shows of a text whose styles rich has set."""
    return _STYLES.sub("", text)
