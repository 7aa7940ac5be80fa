"""What a model is asked: one `Prompt` is a text, a list of chat messages or token ids.

Plain values (JSON) come in, frozen values leave. It must not know tensors, tokenizers or models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from typing_extensions import TypedDict

from steer_tools.errors import PromptError, quoted
from steer_tools.limits import PROMPTS


class Message(TypedDict):  # noqa: D101  # Its docstring would be in the schema of every tool that takes prompts.
    role: str  # "system", "user" or "assistant"
    content: str


PromptLike: TypeAlias = str | list[Message] | list[int]


class _Written:
    def __str__(self) -> str:
        return repr(plain(cast(Prompt, self)))


@dataclass(frozen=True)
class TextPrompt(_Written):
    """A text, tokenised as it stands."""

    text: str


@dataclass(frozen=True)
class ChatPrompt(_Written):
    """(role, content) messages, rendered by the tokenizer's own chat template."""

    messages: tuple[tuple[str, str], ...]

    @property
    def ends_with_assistant(self) -> bool:
        """Whether the last message is the assistant's, so that it is continued instead of answered."""
        return self.messages[-1][0] == "assistant"


@dataclass(frozen=True)
class TokenPrompt(_Written):
    """Token ids, used exactly as given."""

    tokens: tuple[int, ...]


Prompt: TypeAlias = TextPrompt | ChatPrompt | TokenPrompt

VALID_PROMPT = "a text, a list of {'role', 'content'} messages, or a list of token ids"

# Sentences about nothing in particular, on which a model's usual residual norm is measured.
NEUTRAL_PROMPTS: tuple[Prompt, ...] = tuple(
    TextPrompt(text)
    for text in (
        "The train to the coast leaves from the second platform at noon.",
        "He put the box on the table and closed the door behind him.",
        "In the north of the country, winter lasts for almost five months.",
        "The recipe needs two eggs, a cup of flour and a little water.",
        "She walked along the river until she came to the old bridge.",
        "Most of the houses in this street were built of red brick.",
        "A letter arrived on Monday, and nobody knew who had sent it.",
        "The library is open every day except on public holidays.",
    )
)


def has_user_message(prompt: Prompt) -> bool:
    """Whether a prompt is a chat in which the user says something."""
    return isinstance(prompt, ChatPrompt) and any(role == "user" for role, _ in prompt.messages)


def require_user_message(prompt: Prompt) -> ChatPrompt:
    """Return a prompt in which positions can be counted from a user message.

    Raises:
        PromptError: It is no chat, or the user says nothing in it.
    """
    if not isinstance(prompt, ChatPrompt) or not has_user_message(prompt):
        raise PromptError(
            f"positions is 'after_user', and the prompt {prompt!s:.80} has no user message",
            valid="chats: lists of {'role', 'content'} messages, one of them the user's",
            fix="Use positions='generated' for other prompts.",
        )
    return prompt


@dataclass(frozen=True)
class ContrastPrompts:
    """Two sets of prompts that differ in one behaviour; both hold at least one."""

    positive: tuple[Prompt, ...]
    negative: tuple[Prompt, ...]

    @classmethod
    def parse(cls, positive: object, negative: object) -> "ContrastPrompts":
        """Check both sides.

        Raises:
            PromptError: A side is empty or malformed, or both sides hold the same prompts.
        """
        contrast = cls(parse_prompts(positive, "positive_prompts"), parse_prompts(negative, "negative_prompts"))
        if sorted(map(repr, contrast.positive)) == sorted(map(repr, contrast.negative)):
            raise PromptError(
                "The positive and the negative prompts are the same, so their difference is zero",
                valid="two sets that differ in the behaviour to steer",
                fix="Change one of the sides.",
            )
        return contrast

    def plain(self) -> tuple[list[PromptLike], list[PromptLike]]:
        """Return both sides as plain values."""
        return [*map(plain, self.positive)], [*map(plain, self.negative)]

    def fewest_different(self) -> int:
        """Return the number of different prompts on the side that has fewer."""
        return min(len(set(self.positive)), len(set(self.negative)))

    def require_pairs(self, method: str) -> None:
        """Refuse sides of unequal length for a method that subtracts prompt i from prompt i."""
        if len(self.positive) != len(self.negative):
            raise PromptError(
                f"The method {method!r} works on pairs, but there are {len(self.positive)} positive and "
                f"{len(self.negative)} negative prompts",
                valid="as many positive as negative prompts, in the same order",
                fix="Make the lists equally long, or use method='mean_difference', which needs no pairs.",
            )


def split_by_label(
    examples: object, labels: Iterable[object] | None = None, *, text_column: str = "text", label_column: str = "label"
) -> tuple[list[PromptLike], list[PromptLike]]:
    """Return the examples labelled 1 (or true), then those labelled 0, as two lists for `create_steering_vector`.

    `split_by_label(examples, labels)` takes lists, arrays and columns; without labels `examples` is a table, whose
    columns are named: a DataFrame, a data set, a dictionary of lists, or a list of dictionaries.

    Raises:
        PromptError: There are not as many labels as examples, a label is neither 1 nor 0, or there is no such column.
    """
    if labels is None:
        examples, labels = (_column(examples, name) for name in (text_column, label_column))
    # What goes through an array gives texts of NumPy's own type.
    texts = [str(text) if isinstance(text, str) else text for text in cast(Iterable[PromptLike], examples)]
    marks = [*labels]
    if len(texts) != len(marks) or any(mark not in (0, 1) for mark in marks):
        raise PromptError(
            f"There are {len(texts)} examples and the labels {quoted(marks)}",
            valid="one label for each example, 1 where it shows the behaviour and 0 where it does not",
        )
    shows = [text for text, mark in zip(texts, marks, strict=True) if mark]
    return shows, [text for text, mark in zip(texts, marks, strict=True) if not mark]


def _column(table: Any, name: str) -> list[Any]:
    """Return a column of a table, or what each of a list of records has under its name."""
    try:
        return [record[name] for record in table] if isinstance(table, list | tuple) else [*table[name]]
    except (KeyError, TypeError, IndexError) as error:
        raise PromptError(
            f"No labels were given, and the examples have no column {name!r}",
            valid="labels, one for each example; or a table, with text_column and label_column naming its columns",
        ) from error


def is_single(value: object) -> bool:
    """Whether a value is one prompt by itself, not a list of them."""
    if isinstance(value, str | TextPrompt | ChatPrompt | TokenPrompt):
        return True
    items = cast(Sequence[object], value) if isinstance(value, Sequence) else ()
    return bool(items) and all(isinstance(item, int | Mapping) for item in items)


def parse_prompt(value: object, name: str = "prompt") -> Prompt:
    """Turn a plain value into a prompt.

    Raises:
        PromptError: It is blank or none of the three kinds.
    """
    if isinstance(value, TextPrompt | ChatPrompt | TokenPrompt):
        return value
    if isinstance(value, str):
        if not value.strip():
            raise PromptError(f"{name} is blank", valid=VALID_PROMPT, fix="Write some text.")
        return TextPrompt(_encodable(value, name))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview) and value:
        items = cast(Sequence[object], value)
        if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
            return TokenPrompt(tuple(int.__int__(item) for item in cast(Sequence[int], items)))
        if all(isinstance(item, Mapping) for item in items):
            return _parse_chat(cast(Sequence[Mapping[str, object]], items), name)
    raise PromptError(f"{name} is {quoted(value)}", valid=VALID_PROMPT)


def plain(prompt: Prompt) -> PromptLike:
    """Return the plain value that `parse_prompt` would make `prompt` of."""
    match prompt:
        case TextPrompt(text):
            return text
        case ChatPrompt(messages):
            return [{"role": role, "content": content} for role, content in messages]
        case TokenPrompt(tokens):
            return list(tokens)


def prompt_text(prompt: Prompt | PromptLike) -> str:
    """Return what a prompt says: of a chat, each message in a line of its own, with its role."""
    given = plain(prompt) if isinstance(prompt, TextPrompt | ChatPrompt | TokenPrompt) else prompt
    if isinstance(given, str):
        return given
    said = [f"{item['role']}: {item['content']}" for item in given if not isinstance(item, int)]
    return "\n".join(said) or str(given)


def parse_prompts(values: object, name: str = "prompts") -> tuple[Prompt, ...]:
    """Turn a list of plain values into prompts.

    Raises:
        PromptError: It is no list, is empty, or one of its values is no prompt.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise PromptError(
            f"{name} is {'empty' if isinstance(values, Sequence) and not values else quoted(values)}",
            valid="a list with at least one prompt",
            fix=f"Give {name} as a list; each is {VALID_PROMPT}.",
        )
    PROMPTS.require(len(values), f"{name} has", PromptError)
    return tuple(parse_prompt(value, f"{name}[{i}]") for i, value in enumerate(cast(Sequence[object], values)))


def _encodable(text: str, name: str) -> str:
    """Return `text`, which must be a text that UTF-8 can hold: half a surrogate pair is none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name} holds half a surrogate pair at character {error.start}", valid="Unicode text"
        ) from error
    return str.__str__(text)


def _parse_chat(messages: Sequence[Mapping[str, object]], name: str) -> ChatPrompt:
    parsed: list[tuple[str, str]] = []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str) or set(message) != {"role", "content"}:
            raise PromptError(
                f"{name}, message {i}, is {quoted(dict(message))}",
                valid="messages with exactly the keys 'role' and 'content', both texts",
            )
        parsed.append((_encodable(role, name), _encodable(content, name)))
    if not any(content.strip() for _, content in parsed):
        raise PromptError(f"{name} holds only blank messages", valid="at least one message with text")
    return ChatPrompt(tuple(parsed))
