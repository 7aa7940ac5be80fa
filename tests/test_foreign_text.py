"""Foreign texts: nothing hidden comes out, and all that is seen does."""

from __future__ import annotations

import json
import sys
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from helpers.hostile_texts import HOSTILE, WORDS, hidden_in
from steer_tools.errors import ArgumentError
from steer_tools.foreign_text import Markup, element, encodable, in_results, lines_of, page, visible
from steer_tools.progress import report, reporting_to

# Signs of scripts that can be seen, although Unicode counts them among what formats.
SIGNS = {*map(chr, range(0x600, 0x606)), "\u06dd", "\u0890", "\u0891", "\u08e2", "\U000110bd", "\U000110cd"}


def test_of_all_of_unicode_what_acts_or_is_not_seen_is_written_out_and_nothing_else() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    for letter in map(chr, range(sys.maxunicode + 1)):
        is_hidden = unicodedata.category(letter) in hidden and letter not in SIGNS | {"\u200c", "\u200d"}
        if is_hidden:
            assert visible(letter) == ascii(letter)[1:-1]
        elif unicodedata.category(letter)[0] in "LNPS" and letter not in "\u115f\u1160\u3164\uffa0":
            assert visible(letter) == letter


@pytest.mark.parametrize(
    "text",
    [
        "مرحبا ١٢٣، می‌خواهم",
        "שלום עולם",
        "क्‍ष और क्‌ष",
        "👩‍👩‍👧 👁️‍🗨️ ❤️ 🏳️‍🌈",
        "日本語 ｶﾅ",
        "e\u0301 naïve €",
        "ไทย",
        "\\x1b is four letters",
    ],
)
def test_texts_of_any_script_stay_as_they_are(text: str) -> None:
    assert visible(text) == text
    assert json.loads(json.dumps(in_results({"method": text}, frozenset()))) == {"method": text}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_hidden_comes_out_and_the_words_do(text: str) -> None:
    for shown in (visible(text), lines_of(text), str(ArgumentError(text)), element("p", text)):
        assert not hidden_in(shown)
        assert WORDS in shown
    assert "\n" not in visible(text) and "\n" not in str(ArgumentError(text))
    assert visible(visible(text)) == visible(text)
    assert encodable(text).encode()


def test_a_row_of_joiners_or_selectors_says_nothing_unseen() -> None:
    assert visible("a\u200d\u200c\u200db") == "a\u200d\\u200c\\u200db"
    assert visible("a\ufe0f\ufe00b") == "a\ufe0f\\ufe00b"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_in_html_and_svg_a_text_is_a_text(text: str) -> None:
    inner = element("b", text, title=text, data_x=text)
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Reader().feed(element("p", inner))
    root = ElementTree.fromstring(element("svg", inner))

    assert [tag for tag, _ in seen] == ["p", "b"]
    assert set(seen[1][1]) == {"title", "data-x"}
    assert root[0].text == lines_of(text)
    assert seen[1][1]["title"] == lines_of(text)
    assert "<b" not in element("p", str(inner)) and "<b" in element("p", Markup(inner))


def test_a_page_loads_and_runs_nothing() -> None:
    assert "default-src 'none'" in page("t") and "script-src" not in page("t")
    assert "<script" not in page("<script>") and "<script" in page("t", Markup("<script>"))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_of_a_result_generated_texts_are_exact_and_names_are_visible(text: str) -> None:
    result = {"method": text, "texts": [text], "counts": {text: 1}, "tokens": {text: 1}, "none": None}

    shown = in_results(result, frozenset({"texts", "tokens"}))

    assert shown["texts"] == [encodable(text)] and list(shown["tokens"]) == [encodable(text)]
    assert not hidden_in(shown["method"]) and WORDS in shown["method"]
    assert not hidden_in(next(iter(shown["counts"])))
    assert json.dumps(shown, ensure_ascii=False).encode()


def test_progress_says_nothing_hidden() -> None:
    told: list[str] = []
    with reporting_to(lambda done, total, message: told.append(message)):
        report(1, 2, HOSTILE["title"])

    assert not hidden_in(told[0]) and WORDS in told[0]
