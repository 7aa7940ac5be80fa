"""A model's text → text that a terminal shows and cannot be harmed by, with what is new in it marked."""

import re
from difflib import SequenceMatcher

from rich.text import Text

_WORD = re.compile(r"\s*\S+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NEW, _GONE = "bold underline cyan", "dim strike"


def shown(text: str) -> Text:
    """Return `text` without white space around it or control characters in it: a model must not steer the terminal."""
    visible = _visible(text).strip()
    return Text(visible) if visible else Text("(blank)", style="dim italic")


def marked(text: str, baseline: str, *, is_plain: bool) -> Text:
    """Return `text` with the words marked that `baseline` has not there, or has more; where they are equal, say so.

    The mark is a style, which holds without colour too, or, where not even that shows, that of `git --word-diff`.
    """
    if text == baseline:
        return Text("(as the baseline)", style="dim italic")
    if not text.strip():
        return shown(text)
    old, new = (_WORD.findall(_visible(one).strip()) for one in (baseline, text))
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    result = Text()
    for operation, from_old, to_old, start, end in matcher.get_opcodes():
        run = "".join(new[start:end])
        words = run.lstrip()
        result.append(run[: len(run) - len(words)])
        if operation == "delete":
            gone = "".join(old[from_old:to_old]).strip()
            result.append(f" [-{gone}-]" if is_plain else f" {gone}", None if is_plain else _GONE)
        elif operation == "equal" or not words:
            result.append(words)
        elif is_plain:
            result.append(f"{{+{words}+}}")
        else:
            result.append(words, _NEW)
    return result


def chosen(text: str, *, is_plain: bool) -> Text:
    """Return `text` marked as chosen, by a style or, where that does not show, by {+ +}."""
    return Text(f"{{+{_visible(text)}+}}") if is_plain else Text(_visible(text), style=_NEW)


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)
