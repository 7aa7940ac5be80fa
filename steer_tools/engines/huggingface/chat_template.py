"""A tokenizer's chat template: messages → the text that the model is given, with where each message stands in it.

No message's text may get lost, and no role may pass for another one. It must not know token ids.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

from jinja2 import Environment, TemplateError, meta, nodes

from steer_tools.engines.huggingface.watched_template import run_watched
from steer_tools.errors import ArgumentError, PromptError, quoted
from steer_tools.limits import TEMPLATE_SOURCE

# What templates raise by themselves, and what their being compiled and run does where they are wrong, meet a content of
# another kind than they want, or take more than there is.
_TEMPLATE_ERRORS = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NameError,
    AssertionError,
    SyntaxError,
    RuntimeError,
    MemoryError,
)
# A role that renders as one before it is refused; the first three are known to all templates that do not refuse them.
_ROLES = ("user", "assistant", "system", "tool", "developer")
_COMMON = _ROLES[:3]
# Given by whoever renders, beside the tokenizer's special tokens.
_RENDERERS = {"messages", "add_generation_prompt", "continue_final_message", "raise_exception", "strftime_now"}
# What only transformers' own jinja reads; its blocks hold statements as any others.
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
# A list of parts that was written as it is.
_WRITTEN_LIST = re.compile(r"""["']type["']:\s*["']text["']""")


@dataclass(frozen=True)
class RenderedChat:
    """What the model is given for a chat; `spans` are the begin and end of each message's text in it."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Skeleton:
    """What the template writes around messages of some roles.

    Attributes:
        pieces: Before, between and after the messages' texts.
        order: Which message's text stands after each piece but the last.
        in_parts: Whether each message's content is given as a list of parts.
    """

    pieces: tuple[str, ...]
    order: tuple[int, ...]
    in_parts: tuple[bool, ...]

    def spans_in(self, rendered: str, contents: Sequence[str]) -> dict[int, tuple[int, int]]:
        """Return where each message's text stands in a rendered chat; those that are not found are left out."""
        whole = self._exact(rendered, contents)
        if whole is None and (other := self._pattern.fullmatch(rendered)):
            # It is what other messages are rendered as, so that these were changed.
            places = {index: other.span(place + 1) for place, index in enumerate(self.order)}
            return {i: span for i, span in places.items() if rendered[slice(*span)] in _forms(contents[i])}
        return self._searched(rendered, contents) if whole is None else whole

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("(.*)".join(map(re.escape, self.pieces)), re.DOTALL)

    def _exact(self, rendered: str, contents: Sequence[str]) -> dict[int, tuple[int, int]] | None:
        """Return the spans where the pieces stand between the texts as they do between any others."""
        if not rendered.startswith(self.pieces[0]):
            return None
        spans: dict[int, tuple[int, int]] = {}
        end = len(self.pieces[0])
        for index, after in zip(self.order, self.pieces[1:], strict=True):
            text = next((form for form in _forms(contents[index]) if rendered.startswith(form + after, end)), None)
            if text is None:
                return None
            spans[index] = (end, end + len(text))
            end = spans[index][1] + len(after)
        return spans if end == len(rendered) else None

    def _searched(self, rendered: str, contents: Sequence[str]) -> dict[int, tuple[int, int]]:
        """Return the spans where the template writes something else around some texts, as for a thought in them."""
        spans: dict[int, tuple[int, int]] = {}
        end = 0
        for place, index in enumerate(self.order):
            before, after = self.pieces[place : place + 2]
            # A blank text is found anywhere, so it must stand between its own pieces.
            around = [(before, after)] + ([("", after), (before, "")] if contents[index].strip() else [])
            for (left, right), text in product(around, _forms(contents[index])):
                found = rendered.find(left + text + right, max(0, end - len(left)))
                if found >= 0 and (left or right):
                    start = found + len(left)
                    spans[index] = (start, start + len(text))
                    end = start + len(text)
                    break
        return spans


class ChatTemplate:
    """The template that a tokenizer has when this is made, with the options that it is always given."""

    def __init__(self, tokenizer: Any, options: Mapping[str, object]) -> None:
        self._tokenizer = tokenizer
        self._options = dict(options)
        self._skeletons: dict[tuple[str, ...], _Skeleton] = {}
        try:
            self._source = str(tokenizer.get_chat_template())
        except ValueError as error:
            raise PromptError(
                f"The tokenizer's chat template cannot be told ({error})",
                fix="Set tokenizer.chat_template to one template before attaching.",
            ) from error
        TEMPLATE_SOURCE.require(len(self._source), "The tokenizer's chat template has", PromptError)
        if options:
            self._refuse_unused(options)

    def render(self, messages: Sequence[tuple[str, str]]) -> RenderedChat:
        """Return messages as the model is given them: up to a last answer, which goes on, or to the next one's start.

        Raises:
            PromptError: The template refuses the messages, leaves out or rewrites the text of one, or does not tell its
                role from another one.
        """
        roles, contents = [role for role, _ in messages], [content for _, content in messages]
        skeleton = self._skeleton(tuple(roles))
        try:
            rendered = self._written(roles, contents, skeleton.in_parts)
        except _TEMPLATE_ERRORS as error:
            raise self._refusal(error) from error
        found = skeleton.spans_in(rendered, contents)
        if lost := [i for i in range(len(messages)) if i not in found]:
            raise self._loss(lost[0], roles[lost[0]], contents[lost[0]])
        spans = tuple(found[i] for i in range(len(messages)))
        return RenderedChat(rendered[: spans[-1][1]] if roles[-1] == "assistant" else rendered, spans)

    def around(self, *roles: str) -> tuple[str, ...]:
        """Return what the template writes before, between and after texts of these roles, the answer's end included.

        Raises:
            PromptError: As `render` does.
        """
        return self._skeleton(roles).pieces

    @cached_property
    def option_names(self) -> tuple[str, ...]:
        """The names that the template uses and that nobody else gives a value to."""
        given = {*_RENDERERS, *Environment().globals, *self._tokenizer.SPECIAL_TOKENS_ATTRIBUTES}
        used = meta.find_undeclared_variables(self._parsed) - self._variables()
        return tuple(sorted(used - given - set(self._tokenizer.special_tokens_map)))

    @cached_property
    def _parsed(self) -> nodes.Template:
        try:
            return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", self._source))
        except (TemplateError, RecursionError) as error:
            raise self._refusal(error) from error

    @cached_property
    def _raises_to_powers(self) -> bool:
        try:
            return self._parsed.find(nodes.Pow) is not None
        except PromptError:
            return False  # What is wrong with it is said by whoever compiles it.

    @cached_property
    def _strings(self) -> frozenset[str]:
        """The texts that the template's source holds, but for names of fields."""
        fields = {id(item.arg) for item in self._parsed.find_all(nodes.Getitem)}
        constants = (node for node in self._parsed.find_all(nodes.Const) if id(node) not in fields)
        return frozenset(node.value for node in constants if isinstance(node.value, str))

    def _variables(self) -> set[str]:
        """Return the names that the template sets itself, but for those to which it only gives a default."""
        tests = (node for node in self._parsed.find_all(nodes.Test) if node.name in ("defined", "undefined"))
        tested = {name for test in tests for name in _names(test.node)}
        assigned = [(_names(node.target), _names(node.node)) for node in self._parsed.find_all(nodes.Assign)]
        return {name for targets, values in assigned for name in targets - values} - tested

    def _refuse_unused(self, options: Mapping[str, object]) -> None:
        if unused := [name for name in options if name not in self.option_names]:
            raise ArgumentError(
                f"The model's chat template does not use {', '.join(map(repr, unused))}",
                valid=", ".join(map(repr, self.option_names)) or "no options at all",
                fix="Leave out of template_options what the template does not use.",
            )

    def _skeleton(self, roles: tuple[str, ...]) -> _Skeleton:
        if roles not in self._skeletons:
            for role in dict.fromkeys(roles):
                if role not in _COMMON and role not in self._strings:
                    raise self._unknown(f"The model's chat template does not know the role {role!r}")
            skeleton = self._traced(roles)
            self._refuse_taken_for_others(roles, skeleton)
            self._skeletons[roles] = skeleton
        return self._skeletons[roles]

    def _traced(self, roles: Sequence[str]) -> _Skeleton:
        """Return the skeleton of the first way to give contents in which each comes out once, texts first."""
        kinds = list(dict.fromkeys(roles))
        marks = [*map(_mark, range(len(roles)))]
        failures: list[PromptError] = []
        for choice in product((False, True), repeat=len(kinds)):
            in_parts = tuple(choice[kinds.index(role)] for role in roles)
            try:
                text = self._written(roles, marks, in_parts)
            except _TEMPLATE_ERRORS as error:
                # What a template itself says is heard before what jinja says of a content of the wrong kind.
                failures.insert(0 if type(error) is TemplateError else len(failures), self._refusal(error))
                continue
            lost = next((i for i, mark in enumerate(marks) if text.count(mark) != 1), None)
            if lost is None and not _WRITTEN_LIST.search(text):
                return _skeleton_of(text, marks, roles, in_parts)
            failures.append(self._loss(lost or 0, roles[lost or 0]))
        raise failures[0]

    def _refuse_taken_for_others(self, roles: tuple[str, ...], skeleton: _Skeleton) -> None:
        """Refuse a role whose messages are rendered as if they were those of another one, which stands for both."""
        marks = [*map(_mark, range(len(roles)))]
        written = self._written(roles, marks, skeleton.in_parts)
        for role in dict.fromkeys(roles):
            for other in _ROLES[: _ROLES.index(role)] if role in _ROLES else _ROLES:
                changed = [other if given == role else given for given in roles]
                try:
                    is_same = self._written(changed, marks, skeleton.in_parts, roles[-1] == "assistant") == written
                except _TEMPLATE_ERRORS:
                    continue  # It refuses what would have to be alike.
                if is_same:
                    raise self._unknown(f"The model's chat template renders the role {role!r} as if it were {other!r}")

    def _written(
        self,
        roles: Sequence[str],
        contents: Sequence[str],
        in_parts: Sequence[bool],
        has_answer: bool | None = None,
    ) -> str:
        """Return what the template makes of messages; with `has_answer` the last one is the answer."""
        if self._raises_to_powers:
            # One such operation can take for ever, and nothing interrupts it.
            raise PromptError("The model's chat template raises numbers to powers, for which no template has a use")
        has_answer = roles[-1] == "assistant" if has_answer is None else has_answer
        parts = [[{"type": "text", "text": content}] for content in contents]
        given = [part if is_part else text for part, text, is_part in zip(parts, contents, in_parts, strict=True)]
        write = partial(
            self._tokenizer.apply_chat_template,
            [{"role": role, "content": content} for role, content in zip(roles, given, strict=True)],
            chat_template=self._source,
            tokenize=False,
            add_generation_prompt=not has_answer,
            **self._options,
        )
        return run_watched(write)

    def _refusal(self, error: Exception) -> PromptError:
        return PromptError(
            f"The model's chat template refuses these messages ({error})",
            valid="the roles and the order that the template allows",
        )

    def _loss(self, index: int, role: str, content: str = "") -> PromptError:
        said = f", {quoted(content)}" if content else ""
        return PromptError(
            f"The model's chat template leaves out or rewrites the text of message {index} (role {role!r}{said})",
            valid="messages whose whole text it writes; the white space around a text may be cut",
            fix="Leave the thought out of an answer that the template cuts it from."
            if "</think>" in content
            else "Give what it says in another message, or as one text with the template's own control tokens.",
        )

    def _unknown(self, problem: str) -> PromptError:
        known = [role for role in _ROLES if role in _COMMON or role in self._strings]
        return PromptError(problem, valid=", ".join(repr(role) for role in known if self._takes(role)))

    def _takes(self, role: str) -> bool:
        """Return whether there is a short chat with this role that the template renders."""
        for roles in ((role,), (role, "user") if role == "system" else ("user", role)):
            try:
                self._traced(roles)
            except PromptError:
                continue
            return True
        return False


def _names(node: nodes.Node) -> set[str]:
    return {node.name} if isinstance(node, nodes.Name) else {name.name for name in node.find_all(nodes.Name)}


def _mark(index: int) -> str:
    """Return a text for message `index` that no template and no trimming of white space changes."""
    return f"\ue000{index}\ue001"


def _skeleton_of(text: str, marks: Sequence[str], roles: Sequence[str], in_parts: tuple[bool, ...]) -> _Skeleton:
    order = tuple(sorted(range(len(marks)), key=lambda i: text.index(marks[i])))
    # Some write what the system says first into the last user message.
    others = [i for i in order if i > 0 or roles[i] != "system"]
    if others != sorted(others) or order[-1] != len(roles) - 1:
        raise PromptError(
            "The model's chat template changes the order of these messages",
            valid="chats that it writes in their order; only a system message at the start may stand elsewhere",
        )
    return _Skeleton(tuple(re.split("\ue000\\d+\ue001", text)), order, in_parts)


def _forms(content: str) -> Iterator[str]:
    """Yield a text as it is, and without the white space, or the line breaks, that templates cut around it."""
    forms = [content]
    for cut in (None, "\n"):
        forms += [content.rstrip(cut), content.lstrip(cut), content.strip(cut)]
    yield from dict.fromkeys(forms)
