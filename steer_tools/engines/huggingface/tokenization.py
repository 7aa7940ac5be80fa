"""Prompt → token ids, the one place where that is done. It must not know models.

Texts get the special tokens that the tokenizer adds by itself; chat templates bring their own, so none are added a
second time; token ids are used as they are. A completion never changes the tokens of its prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from steer_tools.core.positions import NOWHERE
from steer_tools.engines.base import Completion
from steer_tools.engines.huggingface.chat_template import ChatTemplate
from steer_tools.engines.huggingface.token_texts import TokenTexts
from steer_tools.engines.pooling import TokenizedPrompt
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.limits import CHARACTERS_PER_TOKEN
from steer_tools.prompts import (
    NEUTRAL_PROMPTS,
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
)

# Tokens of prompts that are remembered within one piece of work, some 40 MB.
_REMEMBERED = 1_000_000


@dataclass(frozen=True)
class PromptTokens:
    """The ids of a prompt, and two places in that of a chat.

    Attributes:
        tokens: The ids.
        response_start: Position of the first token of a last assistant message, which goes to the end.
        after_user: Position of the first token after the last user message; NOWHERE in prompts without one.
    """

    tokens: tuple[int, ...]
    response_start: int | None = None
    after_user: int = NOWHERE


@dataclass(frozen=True)
class _Piece:
    """A rendered text with its ids; `spans` are each token's begin and end in it, where the tokenizer tells them."""

    text: str
    tokens: tuple[int, ...]
    spans: Sequence[tuple[int, int]] | None


class Tokenization:
    """A tokenizer with the rules above; the tokenizer itself is never changed."""

    def __init__(
        self,
        tokenizer: Any,
        context_length: int | None,
        vocabulary: int,
        template_options: Mapping[str, object] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self.texts = TokenTexts(tokenizer)
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._template = ChatTemplate(tokenizer, template_options or {}) if tokenizer.chat_template else None
        if template_options and self._template is None:
            raise ArgumentError("template_options were given, and this tokenizer has no chat template", valid="none")
        self._spoken = set[str]()  # Words that a closed language was found to have.
        self._known: dict[Prompt, PromptTokens] = {}

    @property
    def pad_token(self) -> int:
        """A token to fill masked places with; which one it is does not matter."""
        pad = self._tokenizer.pad_token_id
        return int(pad) if pad is not None and pad < self._vocabulary else 0

    @property
    def bos_token(self) -> int | None:
        """The id of the token that starts a text, if there is one."""
        return self._tokenizer.bos_token_id

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """The ids that end a text: the tokenizer's end of sequence and, with a chat template, its end of turn.

        The model's `generation_config` is not asked, since it names wrong ids in some models.
        """
        stops = [self._tokenizer.eos_token_id, self._end_of_turn()]
        return tuple(dict.fromkeys(int(token) for token in stops if token is not None))

    @cached_property
    def answer_start(self) -> tuple[int, ...]:
        """The ids that the chat template puts between the last user message and any answer; empty if they vary."""
        if self._template is None:
            return ()
        asked = [(("user", question),) for question in ("Is it?", "Go on.", "Yes")]
        try:
            new, given = (self._chats([(*c, *a) for c in asked]) for a in ((), (("assistant", "Yes"),)))
        except PromptError:
            return ()  # A template that wants more than one user message has no start of an answer to know.
        before_new, before_given = (
            shared_end(*(chat.tokens[chat.after_user : chat.response_start] for chat in chats))
            for chats in (new, given)
        )
        # A thought may be opened for a new answer, or be closed before one that is there.
        return shared_start(before_new, before_given) or before_new

    @cached_property
    def user_start(self) -> tuple[int, ...]:
        """The ids that the chat template puts between an answer and the next user message; empty if they vary."""
        if not self.answer_start:
            return ()
        try:
            heads = [self._between(answer, "Why") for answer in ("Yes", "No.")]
            others = [self._between(answer, "Go on.") for answer in ("Yes", "No.")]
        except PromptError:
            return ()
        return shared_start(shared_end(*heads), shared_end(*others))

    def describe(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the tokens of a prompt with what is known of each."""
        return self.describe_each([prompt])[0]

    def describe_each(self, prompts: Iterable[Prompt]) -> list[TokenizedPrompt]:
        """Return the tokens of each prompt with what is known of them."""
        return [
            TokenizedPrompt(
                tokens=encoded.tokens,
                texts=self.texts.of(encoded.tokens),
                special=tuple(token in self.special_tokens for token in encoded.tokens),
                first=self.first_position(encoded),
                after_user=encoded.after_user,
                response=NOWHERE if encoded.response_start is None else encoded.response_start,
            )
            for encoded in self.encode_each(prompts)
        ]

    def first_position(self, encoded: PromptTokens) -> int:
        """Return the position of the first token after BOS."""
        return int(encoded.tokens[0] == self.bos_token)

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """All ids that are no text; an unknown word is text."""
        added = {token for token, kind in self._tokenizer.added_tokens_decoder.items() if kind.special}
        return frozenset({*self._tokenizer.all_special_ids, *added} - {self._tokenizer.unk_token_id})

    @property
    def language(self) -> str | None:
        """The closed language that the tokenizer's config names; None for open text."""
        return self._tokenizer.init_kwargs.get("language")

    @cached_property
    def neutral_prompts(self) -> tuple[Prompt, ...]:
        """Texts about nothing in particular; the config of a tokenizer with a closed language holds its own."""
        own = self._tokenizer.init_kwargs.get("neutral_prompts")
        return NEUTRAL_PROMPTS if own is None else tuple(map(TextPrompt, own))

    def encode(self, prompt: Prompt, new_tokens: int = 0) -> PromptTokens:
        """Return the ids of `prompt`, to which `new_tokens` more are to be added.

        Raises:
            PromptError: It does not fit into the model's context, has an id outside the vocabulary, gives no token,
                has words outside a closed language, or is a chat and the tokenizer has no chat template.
        """
        return self.encode_each([prompt], new_tokens)[0]

    def encode_each(self, prompts: Iterable[Prompt], new_tokens: int = 0) -> list[PromptTokens]:
        """Return the ids of each prompt, as `encode` does; what is not remembered is tokenised in one batch."""
        prompts = list(prompts)
        found = {prompt: self._known.get(prompt) for prompt in prompts}
        new = [prompt for prompt, encoded in found.items() if encoded is None]
        tokenised = dict(zip(new, self._tokenised(new), strict=True))
        self._remember(tokenised)
        each = [found[prompt] or tokenised[prompt] for prompt in prompts]
        for encoded in each:
            self._refuse_too_long(len(encoded.tokens), new_tokens)
        return each

    def forget(self) -> None:
        """Tokenise all anew from here on: the tokenizer may do it otherwise by now."""
        self._known.clear()

    def encode_pairs(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> tuple[list[PromptTokens], list[tuple[int, ...]]]:
        """Return the ids of each prompt and those that its completion adds; equal ones are tokenised once."""
        encoded, encode = self.encode_each(prompts), cache(self.encode_completion)
        given = (completion if isinstance(completion, str) else tuple(completion) for completion in completions)
        return encoded, [encode(*parts) for parts in zip(prompts, encoded, given, strict=True)]

    def encode_completion(self, prompt: Prompt, prompt_tokens: PromptTokens, completion: Completion) -> tuple[int, ...]:
        """Return the ids that `completion` adds after `prompt`.

        A text is tokenised together with its prompt, and what follows the prompt's own tokens is taken; where the
        two would merge into one token over the border, the completion is tokenised alone, so that the prompt keeps
        its tokens and its last position.

        Raises:
            PromptError: It has no token, or prompt and completion do not fit into the model's context.
        """
        is_text = isinstance(completion, str)
        added = self._completion(prompt, prompt_tokens, completion) if is_text else tuple(completion)
        if not added:
            raise PromptError("A completion has no token", valid="some text, or at least one token id")
        self._refuse_too_long(len(prompt_tokens.tokens), len(added))
        return added

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of new tokens, without special ones."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def decode_continuation(self, prompt_tokens: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text that `tokens` add to `prompt_tokens`, with the space that a lone decode may drop."""
        before, whole = self.decode(prompt_tokens), self.decode([*prompt_tokens, *tokens])
        return whole[len(before) :] if whole.startswith(before) else self.decode(tokens)

    def goes_round_template(self, prompt: Prompt) -> bool:
        """Return whether a prompt is a text that the chat template has not been written into already."""
        if self._template is None or not isinstance(prompt, TextPrompt):
            return False
        encoded = self.encode(prompt)
        if any(token in self.special_tokens for token in encoded.tokens[self.first_position(encoded) :]):
            return False
        try:
            start = self._template.around("user")[-1].strip()
        except PromptError:
            return True
        return not start or start not in prompt.text

    def _tokenised(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Return the ids of each prompt, however many they are."""
        for prompt in prompts:
            self._refuse_far_too_long(prompt)
        texts = [prompt.text for prompt in prompts if isinstance(prompt, TextPrompt)]
        chats = [prompt.messages for prompt in prompts if isinstance(prompt, ChatPrompt)]
        self._refuse_foreign_words(*texts, *(content for messages in chats for _, content in messages))
        of_texts = map(PromptTokens, self._text_ids(texts))
        of_chats = iter(self._chats(chats))
        made: list[PromptTokens] = []
        for prompt in prompts:
            match prompt:
                case TextPrompt():
                    encoded = next(of_texts)
                case TokenPrompt(tokens):
                    encoded = PromptTokens(tokens)
                case ChatPrompt():
                    encoded = next(of_chats)
            if not encoded.tokens:
                raise PromptError(f"The prompt {prompt!s:.80} has no token", fix="Write some text.")
            if (largest := max(encoded.tokens)) >= self._vocabulary:
                raise PromptError(
                    f"The token id {largest} is not in the model's vocabulary",
                    valid=f"0 to {self._vocabulary - 1}",
                    fix="The tokenizer must be the model's own; for tokens that were added to it, call "
                    "model.resize_token_embeddings(len(tokenizer)).",
                )
            made.append(encoded)
        return made

    def _remember(self, tokenised: Mapping[Prompt, PromptTokens]) -> None:
        if sum(len(encoded.tokens) for each in (self._known, tokenised) for encoded in each.values()) > _REMEMBERED:
            self._known.clear()
        else:
            self._known |= tokenised

    def _chats(self, chats: Sequence[tuple[tuple[str, str], ...]]) -> list[PromptTokens]:
        return [self._placed(messages, *made) for messages, made in zip(chats, self._rendered(chats), strict=True)]

    def _placed(
        self, messages: tuple[tuple[str, str], ...], piece: _Piece, spans: Sequence[tuple[int, int]]
    ) -> PromptTokens:
        asked = [i for i, (role, _) in enumerate(messages) if role == "user"]
        return PromptTokens(
            piece.tokens,
            response_start=self._reaching(piece, spans[-1][0]) if messages[-1][0] == "assistant" else None,
            after_user=self._starting(piece, spans[asked[-1]][1]) if asked else NOWHERE,
        )

    def _rendered(self, chats: Sequence[tuple[tuple[str, str], ...]]) -> list[tuple[_Piece, Sequence[tuple[int, int]]]]:
        """Return each chat as the model is given it, and where each message's text stands in it."""
        rendered = [self._chat_template().render(messages) for messages in chats]
        texts = [chat.text for chat in rendered]
        if not texts:
            return []
        if self._tokenizer.is_fast:
            encoded = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        else:
            ids, offsets = self._plain_ids(texts), [None] * len(texts)
        pieces = map(_Piece, texts, map(tuple, ids), offsets)
        return [(piece, chat.spans) for piece, chat in zip(pieces, rendered, strict=True)]

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            raise PromptError(
                "This tokenizer has no chat template, so chat messages cannot be rendered",
                valid="texts or token ids for a base model",
                fix="Write the chat as one text, or set tokenizer.chat_template before attaching.",
            )
        return self._template

    def _reaching(self, piece: _Piece, place: int) -> int:
        """Return the position of the first token that holds some of what begins at `place`, or is beyond."""
        if piece.spans is not None:
            return next((i for i, (_, end) in enumerate(piece.spans) if end > place), len(piece.tokens))
        return len(shared_start(piece.tokens, self._plain_ids([piece.text[:place]])[0]))

    def _starting(self, piece: _Piece, place: int) -> int:
        """Return the position of the first token that holds nothing of what ends at `place`."""
        if piece.spans is not None:
            return next((i for i, (start, _) in enumerate(piece.spans) if start >= place), len(piece.tokens))
        return len(piece.tokens) - len(shared_end(piece.tokens, self._plain_ids([piece.text[place:]])[0]))

    def _between(self, answer: str, question: str) -> tuple[int, ...]:
        """Return the ids between an answer and the next user message."""
        ((piece, spans),) = self._rendered([(("user", "Is it?"), ("assistant", answer), ("user", question))])
        return piece.tokens[self._starting(piece, spans[1][1]) : self._reaching(piece, spans[2][0])]

    def _text_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of texts that go on: with the start that the tokenizer adds, without its end."""
        return [*map(self._going_on, texts, self._ids(texts))]

    def _going_on(self, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        bos = self.bos_token
        has_two = bos is not None and ids[:2] == (bos, bos)
        if not has_two and (not ids or ids[-1] not in self.special_tokens):
            return ids
        (plain,) = self._plain_ids([text])
        if has_two and plain[:1] == ids[:1]:
            ids = ids[1:]  # A text that a chat template was rendered into brings its own.
        while ids and ids[-1] in self.special_tokens and ids[-1:] != plain[-1:]:
            ids = ids[:-1]
        return ids

    def _plain_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return self._ids(texts, add_special_tokens=False)

    def _ids(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[tuple[int, ...]]:
        """Return the ids of each text, all from one call."""
        if not texts:
            return []
        return [*map(tuple, self._tokenizer(list(texts), add_special_tokens=add_special_tokens)["input_ids"])]

    def _completion(self, prompt: Prompt, prompt_tokens: PromptTokens, completion: str) -> tuple[int, ...]:
        self._refuse_far_too_long(TextPrompt(completion), "completion")
        match prompt:
            case TextPrompt(text):
                (whole,) = self._text_ids([text + completion])
            case ChatPrompt():
                (whole,) = self._plain_ids([self._chat_template().render(prompt.messages).text + completion])
            case TokenPrompt():
                return self._plain_ids([completion])[0]
        length = len(prompt_tokens.tokens)
        return whole[length:] if whole[:length] == prompt_tokens.tokens else self._plain_ids([completion])[0]

    def _end_of_turn(self) -> int | None:
        """Return the first special id that the chat template puts after an assistant's message."""
        if self._template is None:
            return None
        try:
            ending = self._template.around("user", "assistant")[-1]
        except PromptError:
            return None  # A template that does not know these two roles has no end of an assistant's turn.
        return next((token for token in self._plain_ids([ending])[0] if token in self.special_tokens), None)

    def _refuse_foreign_words(self, *texts: str) -> None:
        """Refuse unknown words where the tokenizer's config holds an `example_prompt`, as that of a closed language."""
        example = self._tokenizer.init_kwargs.get("example_prompt")
        if example is None:
            return
        words = list(dict.fromkeys(word for text in texts for word in text.split() if word not in self._spoken))
        pairs = zip(words, self._plain_ids(words), strict=True)
        unknown = [word for word, ids in pairs if self._tokenizer.unk_token_id in ids]
        self._spoken.update({*words}.difference(unknown))
        if unknown:
            named = ", ".join(repr(word.strip(",.?!;:") or word) for word in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise PromptError(
                f"This model's small language lacks the words {named}{more}", valid=f"prompts such as {example!r}"
            )

    def _refuse_far_too_long(self, prompt: Prompt, what: str = "prompt") -> None:
        """Refuse unread what has more characters than the tokens of a context could stand for."""
        if self._context_length is None or isinstance(prompt, TokenPrompt):
            return
        texts = [prompt.text] if isinstance(prompt, TextPrompt) else [content for _, content in prompt.messages]
        CHARACTERS_PER_TOKEN.require(
            sum(map(len, texts)) // self._context_length,
            f"For each of {self._context_length:,} tokens, the model's context, the {what} {texts[0][:40]!r}... has",
            PromptError,
            fix=f"Shorten the {what}; nothing is truncated.",
        )

    def _refuse_too_long(self, prompt_length: int, added: int) -> None:
        if self._context_length is not None and prompt_length + added > self._context_length:
            raise PromptError(
                f"A prompt of {prompt_length} tokens{f' with {added} more' if added else ''} does not fit into the "
                f"model's context",
                valid=f"at most {self._context_length} tokens together",
                fix="Shorten the prompt" + (" or ask for fewer new tokens." if added else "; nothing is truncated."),
            )


def shared_start(*sequences: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens with which all of the sequences begin."""
    differing = (i for i, tokens in enumerate(zip(*sequences, strict=False)) if len(set(tokens)) > 1)
    return sequences[0][: next(differing, min(map(len, sequences)))]


def shared_end(*sequences: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens with which all of the sequences end."""
    return shared_start(*(tokens[::-1] for tokens in sequences))[::-1]
