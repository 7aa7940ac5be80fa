"""A behaviour, whose items are prompts with one completion that shows it and one that does not; what a model reads.

It must not know files, models or tokenizers: the spaces between prompts and completions are written here, how they are
cut is not.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
class Words:
    """Words and short phrases that texts of one side have more of; a side may have none.

    They count roughly: a text may show a behaviour without any of them, and hold some without showing it.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def balance(self, text: str) -> int:
        """Return how often `text` holds the positive ones, in whatever case and as whole words, less the negative ones.

        Of two that overlap ("not happy", "happy") the longer one counts.
        """
        shown = {_key(word) for word in self.positive}
        return sum(1 if _key(match[0]) in shown else -1 for match in self._pattern.finditer(text))

    def repeated(self) -> list[str]:
        """Return those that are there more than once, on either side."""
        counts = Counter(_key(word) for word in (*self.positive, *self.negative))
        return [word for word, count in counts.items() if count > 1]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted({_key(word) for word in (*self.positive, *self.negative)}, key=len, reverse=True)
        written = (re.escape(word).replace(r"\ ", r"\s+").replace("'", "['’]") for word in longest_first)
        return re.compile(rf"(?<!\w)(?:{'|'.join(written)})(?!\w)", re.IGNORECASE)


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
        questions: Held out, too; what a model writes to them shows more or less of the behaviour. Where there are none,
            the items' prompts serve.
        words: What counts it in a text, roughly; None where no words can.
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
    questions: Sequence[TextPrompt | ChatPrompt] = ()
    words: Words | None = None
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
    prompt = BEGINNING if item.prompt is None else posed_to_model(item.prompt, as_chat)
    space = _space_after(_written_before(prompt))
    return prompt, space + item.positive, space + item.negative


def continued(prompt: Prompt, text: str, as_chat: bool) -> TextPrompt | ChatPrompt:
    """Return `prompt` with `text` behind it just as it was written, as the assistant's last message of a chat.

    Raises:
        PromptError: The prompt is token ids.
    """
    as_posed = posed_to_model(prompt, as_chat)
    written = _written_before(as_posed) + text
    if isinstance(as_posed, TextPrompt):
        return TextPrompt(written)
    earlier = as_posed.messages[:-1] if as_posed.ends_with_assistant else as_posed.messages
    return ChatPrompt((*earlier, ("assistant", written)))


def asked(prompt: Prompt, instruction: str, as_chat: bool, *, by_system: bool = True) -> Prompt:
    """Return `prompt` with `instruction` before it, as the system's message of a chat or as the first line of a text.

    Without `by_system` a chat's first message begins with it, for templates that take no message of the system.

    Raises:
        PromptError: The prompt is token ids.
    """
    as_posed = posed_to_model(prompt, as_chat and prompt != BEGINNING)
    if isinstance(as_posed, TextPrompt):
        return TextPrompt(f"{instruction}\n{as_posed.text}")
    (role, content), *others = as_posed.messages
    if not by_system:
        return ChatPrompt(((role, f"{instruction}\n\n{content}"), *others))
    if role == "system":
        # Most templates take one message of the system and refuse a second.
        return ChatPrompt((("system", f"{instruction}\n\n{content}"), *others))
    return ChatPrompt((("system", instruction), *as_posed.messages))


def posed_to_model(prompt: Prompt, as_chat: bool) -> TextPrompt | ChatPrompt:
    """Return a prompt as a model is asked it: a text is a user's message where that is so.

    Raises:
        PromptError: The prompt is token ids.
    """
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


def _completed(prompt: Prompt | None, completion: str, as_chat: bool) -> Prompt:
    if prompt is None:
        return TextPrompt(completion)
    space = _space_after(_written_before(posed_to_model(prompt, as_chat)))
    return continued(prompt, space + completion, as_chat)


def _written_before(prompt: TextPrompt | ChatPrompt) -> str:
    """Return the text that a completion goes on with; a chat that waits for an answer has none."""
    if isinstance(prompt, TextPrompt):
        return prompt.text
    return prompt.messages[-1][1] if prompt.ends_with_assistant else ""


def _space_after(text: str) -> str:
    return " " if text and not text[-1].isspace() else ""


def _key(word: str) -> str:
    return " ".join(word.replace("’", "'").lower().split())
