"""A behaviour, whose items are prompts with one completion that shows it and one that does not; what a model reads.

It must not know files, models or tokenizers: the spaces between prompts and completions are written here, how they are
cut is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steer_tools.errors import PromptError
from steer_tools.prompts import ChatPrompt, ContrastPrompts, Prompt, TextPrompt


@dataclass(frozen=True)
class Item:
    """A prompt with a completion that shows a behaviour and one that does not.

    Attributes:
        prompt: What is continued; None where the completions are whole texts.
        positive: Shows the behaviour; begins without a space, as the negative one does.
        group: Items of one template, or wordings of one question, share it: they are no independent evidence.
    """

    prompt: Prompt | None
    positive: str
    negative: str
    group: str


@dataclass(frozen=True)
class Behavior:
    """A behaviour with what a vector is made of and what it is judged on; no item of one is in the other.

    Attributes:
        poles: A word for the positive completions and one for the negative ones, as ("honest", "deceptive").
        instruction: A sentence that simply asks a model for it; None where nobody wrote one.
        source: Who wrote it, and where.
        pairs: For making vectors.
        items: Held out, for measuring.
        choices: Held out questions of two answers, (A) and (B); may be empty.
        notes: What its user should know of how lists were read.
    """

    name: str
    description: str
    poles: tuple[str, str]
    instruction: str | None
    source: str
    pairs: Sequence[Item]
    items: Sequence[Item]
    choices: Sequence[Item] = ()
    notes: tuple[str, ...] = ()


# What whole texts follow where they are scored: every tokenizer of open text has the end of a line, and not all BOS.
BEGINNING = TextPrompt("\n")


def contrast_prompts(items: Sequence[Item], as_chat: bool) -> ContrastPrompts:
    """Return the items with their positive completions, and with their negative ones, in the same order.

    A chat stays one whatever `as_chat` says, and a completion without a prompt a text.

    Raises:
        PromptError: There is no item, or one has token ids for a prompt.
    """
    return ContrastPrompts.parse(
        [_completed(item.prompt, item.positive, as_chat) for item in items],
        [_completed(item.prompt, item.negative, as_chat) for item in items],
    )


def evaluation_prompt(item: Item, as_chat: bool) -> tuple[Prompt, str, str]:
    """Return a prompt with the positive and the negative completion to score after it, each with the space it needs.

    Whole texts are scored after the end of a line, which comes before any text.

    Raises:
        PromptError: The item has token ids for a prompt.
    """
    prompt = BEGINNING if item.prompt is None else _posed(item.prompt, as_chat)
    space = _space_after(_written_before(prompt))
    return prompt, space + item.positive, space + item.negative


def asked(prompt: Prompt, instruction: str, as_chat: bool, *, by_system: bool = True) -> Prompt:
    """Return `prompt` with `instruction` before it, as the system's message of a chat or as the first line of a text.

    Without `by_system` a chat's first message begins with it, for templates that take no message of the system.

    Raises:
        PromptError: The prompt is token ids.
    """
    posed = _posed(prompt, as_chat and prompt != BEGINNING)
    if isinstance(posed, TextPrompt):
        return TextPrompt(f"{instruction}\n{posed.text}")
    (role, content), *others = posed.messages
    if not by_system:
        return ChatPrompt(((role, f"{instruction}\n\n{content}"), *others))
    if role == "system":
        # Most templates take one message of the system and refuse a second.
        return ChatPrompt((("system", f"{instruction}\n\n{content}"), *others))
    return ChatPrompt((("system", instruction), *posed.messages))


def _completed(prompt: Prompt | None, completion: str, as_chat: bool) -> Prompt:
    if prompt is None:
        return TextPrompt(completion)
    posed = _posed(prompt, as_chat)
    before = _written_before(posed)
    written = before + _space_after(before) + completion
    if isinstance(posed, TextPrompt):
        return TextPrompt(written)
    earlier = posed.messages[:-1] if posed.ends_with_assistant else posed.messages
    return ChatPrompt((*earlier, ("assistant", written)))


def _posed(prompt: Prompt, as_chat: bool) -> TextPrompt | ChatPrompt:
    match prompt:
        case TextPrompt(text):
            return ChatPrompt((("user", text),)) if as_chat else prompt
        case ChatPrompt():
            return prompt
        case _:
            raise PromptError(
                f"The prompt {prompt!s:.80} is token ids, which no text can follow or precede",
                valid="a text or chat messages",
            )


def _written_before(prompt: TextPrompt | ChatPrompt) -> str:
    """Return the text that a completion goes on with; a chat that waits for an answer has none."""
    if isinstance(prompt, TextPrompt):
        return prompt.text
    return prompt.messages[-1][1] if prompt.ends_with_assistant else ""


def _space_after(text: str) -> str:
    return " " if text and not text[-1].isspace() else ""
