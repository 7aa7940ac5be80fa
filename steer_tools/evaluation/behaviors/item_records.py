"""Plain values → items: records of several forms, or two prompts that make a pair. It must not know files."""

import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from steer_tools.errors import PromptError, quoted
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.behaviors.instructions import is_within_instruction
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt, parse_prompt

_SHORTEST_BEGINNING = 2
_WORD = re.compile(r"\S+")
_QUESTION = re.compile(r".*(?:\?[\"'”’)]*(?=\s|\Z)|\n)", re.DOTALL)
# Not of one word: "Mr. Smith was".
_SENTENCE = re.compile(r"\S+\s.*?[.!…][\"'”’)]*(?=\s|\Z)", re.DOTALL)
_TURN = re.compile(r"(?:\A|\n\n)[ \t]*(Human|Assistant):")


@dataclass(frozen=True)
class _Form:
    """The keys of a record; `is_open` where others wrote it: it has a prompt then, and further keys say nothing."""

    positive: str
    negative: str
    prompts: tuple[str, ...]  # Where the prompt may stand.
    is_open: bool


_FORMS = (
    _Form("positive", "negative", ("prompt",), is_open=False),
    # Anthropic's model-written evaluations (Perez et al. 2022, arXiv 2212.09251) and CAA's files for vectors.
    _Form("answer_matching_behavior", "answer_not_matching_behavior", ("question",), is_open=True),
    # CAA's files of MMLU and TruthfulQA (Rimsky et al. 2023, arXiv 2312.06681).
    _Form("correct", "incorrect", ("prompt", "question"), is_open=True),
)
RECORD_KEYS = frozenset(
    {"group"}.union(*({form.positive, form.negative, *form.prompts} for form in _FORMS)),
)
VALID_RECORD = (
    "'positive' and 'negative', with 'prompt' and 'group' if there are any; 'question', 'answer_matching_behavior' "
    "and 'answer_not_matching_behavior'; or 'prompt', 'correct' and 'incorrect'"
)


@contextmanager
def located(where: str) -> Generator[None]:
    """Put `where` in front of what a PromptError says inside a `with` block."""
    try:
        yield
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from error


def item_of_record(record: object) -> Item:
    """Return the item that a record of one of the forms holds.

    Without a prompt what both completions begin with becomes it; where it is null, they are whole texts.
    A question of the form "Human: ... Assistant:", with blank lines between its turns, becomes a chat.

    Raises:
        PromptError: A key is missing or unknown, or a value is blank or of a wrong type.
    """
    if not isinstance(record, Mapping):
        raise PromptError(f"{quoted(record)} stands where a record should", valid=f"an object with {VALID_RECORD}")
    values = cast(Mapping[str, object], record)
    form, prompt_key = form_of(values.keys())
    positive, negative = (require_text(values[key], key).strip() for key in (form.positive, form.negative))
    group = require_text(values["group"], "group") if "group" in values else None
    if prompt_key is None:
        return item_of_texts(positive, negative, group)
    value = values[prompt_key]
    prompt = None if value is None and not form.is_open else require_prompt(value, prompt_key)
    if prompt_key == "question" and isinstance(prompt, TextPrompt):
        prompt = _chat_in(prompt.text) or prompt
    return _item(prompt, positive, negative, group)


def form_of(keys: Collection[str]) -> tuple[_Form, str | None]:
    """Return the form of a record with these keys, and the key of its prompt, if it has one.

    Raises:
        PromptError: They are those of no form, or of two.
    """
    forms = [form for form in _FORMS if form.positive in keys or form.negative in keys]
    if len(forms) != 1:
        given = ", ".join(map(repr, keys)) or "none"
        raise PromptError(f"the keys are {given:.200}", valid=VALID_RECORD)
    (form,) = forms
    known = {form.positive, form.negative, *form.prompts, "group"}
    unknown = [] if form.is_open else [key for key in keys if key not in known]
    if unknown:
        raise PromptError(f"the key {quoted(unknown[0])} is unknown", valid=VALID_RECORD, fix="Correct or remove it.")
    missing = [key for key in (form.positive, form.negative) if key not in keys]
    prompts = [key for key in form.prompts if key in keys]
    if missing or len(prompts) > 1 or (form.is_open and not prompts):
        either = " or ".join(map(repr, form.prompts))
        problem = f"{missing[0]!r} is missing" if missing else f"not exactly one of {either} is there"
        raise PromptError(problem, valid=VALID_RECORD)
    return form, prompts[0] if prompts else None


def item_of_texts(positive: str, negative: str, group: str | None = None) -> Item:
    """Return two whole texts as an item.

    What both begin with becomes the prompt, in whole words and if these are at least two; otherwise there is none, as
    where both are one instruction to a model from there on ("You are a kind", "You are a rude").
    Without `group` items of one question fall into one group, up to which their texts may begin alike ("Is it? I
    think"); and those of one beginning, if a sentence ends in it. Otherwise ("I really") each has a group of its own.

    Raises:
        PromptError: A text is blank, or both are the same.
    """
    positive, negative = (require_text(t, k).strip() for t, k in ((positive, "positive"), (negative, "negative")))
    end = _common_end(positive, negative)
    if is_within_instruction(positive[:end], positive):
        end = 0
    prompt = TextPrompt(positive[:end]) if end else None
    if group is None and prompt is not None:
        own = f"{positive}\n{negative}" if is_beginning(prompt) else None
        group = _question_in(positive[: end + 1]) or own
    return _item(prompt, positive[end:].lstrip(), negative[end:].lstrip(), group)


def item_of_prompts(positive: Prompt, negative: Prompt) -> Item:
    """Return two texts, or two chats that end with an assistant's message, as an item.

    Of chats the last messages are the completions, and what comes before them in the positive one is the prompt.

    Raises:
        PromptError: They are of two kinds, token ids, chats without an answer, or the same.
    """
    match positive, negative:
        case TextPrompt(), TextPrompt():
            return item_of_texts(positive.text, negative.text)
        case ChatPrompt((_, *_, ("assistant", shown))), ChatPrompt((_, *_, ("assistant", opposite))):
            completions = (require_text(answer, "the answer").strip() for answer in (shown, opposite))
            _refuse_nul_in(positive)
            return _item(ChatPrompt(positive.messages[:-1]), *completions)
        case _:
            raise PromptError(
                f"{positive!s:.80} and {negative!s:.80} make no pair",
                valid="two texts, or two chats that each end with an assistant's message after another one",
            )


def item_of_strangers(positive: Prompt, negative: Prompt) -> Item:
    """Return two prompts that have nothing to do with each other as an item: of texts, one without a prompt."""
    match positive, negative:
        case TextPrompt(shown), TextPrompt(opposite):
            return _item(None, shown.strip(), opposite.strip())
        case _:
            return item_of_prompts(positive, negative)


def question_of(prompt: Prompt) -> str:
    """Return what a prompt asks: of a chat without the system's message and an answer that is begun."""
    match prompt:
        case TextPrompt(text):
            return text.strip()
        case ChatPrompt(messages):
            turns = [message for message in messages if message[0] != "system"]
            turns = turns[:-1] if prompt.ends_with_assistant else turns
            match turns:
                case [(_, content)] if content.strip():
                    return content.strip()
                case _:
                    return str(ChatPrompt(tuple(turns)) if turns else prompt)
        case _:
            return str(prompt)


def is_beginning(prompt: Prompt) -> bool:
    """Whether no sentence, question or line ends in a prompt, so that texts which begin so may be of anything."""
    return isinstance(prompt, TextPrompt) and not (_question_in(prompt.text) or _SENTENCE.match(prompt.text))


def require_prompt(value: object, name: str) -> TextPrompt | ChatPrompt:
    """Return a text or a list of messages as a prompt.

    Raises:
        PromptError: It is neither, is blank, or holds a NUL or half a surrogate pair.
    """
    if not isinstance(value, list):
        return TextPrompt(require_text(value, name))
    prompt = parse_prompt(cast(object, value), name)
    if not isinstance(prompt, ChatPrompt):
        raise PromptError(f"{name} is {quoted(value)}", valid="a text or a list of {'role', 'content'} messages")
    _refuse_nul_in(prompt)
    return prompt


def require_text(value: object, name: str) -> str:
    """Return `value`, which must be a text with something in it.

    Raises:
        PromptError: It is no text, is blank, or holds a NUL or half a surrogate pair.
    """
    if not isinstance(value, str) or not value.strip():
        problem = f"{name} is blank" if isinstance(value, str) else f"{name} is {quoted(value)}"
        raise PromptError(problem, valid="a text that is not blank")
    _refuse_nul(value, name)
    parse_prompt(value, name)  # Half a surrogate pair.
    return value


def _item(prompt: TextPrompt | ChatPrompt | None, positive: str, negative: str, group: str | None = None) -> Item:
    if positive == negative:
        raise PromptError(f"both completions are {quoted(positive)}", valid="two that differ in the behaviour")
    if group is None:
        group = f"{positive}\n{negative}" if prompt is None else question_of(prompt)
    return Item(prompt, positive, negative, group)


def _question_in(beginning: str) -> str | None:
    """Return a text up to the end of its last question or line; None if there is none, or but a line as "Review:"."""
    found = _QUESTION.match(beginning)
    question = found[0].strip() if found else ""
    is_label = question.endswith(":") and "\n" not in question
    return None if is_label else question or None


def _chat_in(question: str) -> ChatPrompt | None:
    """Return the chat that a text of turns is, the assistant's last one begun or not; None of any other text."""
    before, *turns = _TURN.split(question.strip())
    speakers, contents = turns[::2], [content.strip() for content in turns[1::2]]
    alternating = ["Human", "Assistant"] * (len(speakers) // 2)
    if before or not speakers or speakers != alternating:
        return None
    if not contents[-1]:
        speakers, contents = speakers[:-1], contents[:-1]
    if not all(contents):
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return ChatPrompt(tuple((roles[speaker], content) for speaker, content in zip(speakers, contents, strict=True)))


def _common_end(one: str, other: str) -> int:
    """Return where the words end that both texts begin with; 0 if they are too few, or nothing is left of a text."""
    differing = (i for i, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    alike = next(differing, min(len(one), len(other)))
    ends, others = ([word.end() for word in _WORD.finditer(text)][:-1] for text in (one, other))
    common = sorted(end for end in {*ends} & {*others} if end <= alike)
    return common[-1] if len(common) >= _SHORTEST_BEGINNING else 0


def _refuse_nul_in(prompt: ChatPrompt) -> None:
    for _, content in prompt.messages:
        _refuse_nul(content, "a message")


def _refuse_nul(text: str, name: str) -> None:
    if "\0" in text:
        raise PromptError(f"{name} holds a NUL", valid="text", fix="Remove it.")
