"""An engine without a model: a small linear toy that answers at once, so that what is above the engines can be tried.

Words are its tokens. Each of its blocks adds a matrix of the token's own state (its MLP) and one of the mean state of
the tokens so far (its attention); the logits are linear in the last state. It has no heads, gradients, replay or
weights to edit, which are refused by name.
"""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from steer_tools.core.plan import Plan
from steer_tools.core.positions import NOWHERE, attention_sinks, without
from steer_tools.core.site import Site
from steer_tools.engines.base import (
    Completion,
    CompletionReading,
    Generation,
    ModelInfo,
    Row,
    Sampling,
    Unembedding,
    counted_layer,
    mean_at_text,
    rows_decided,
)
from steer_tools.engines.pooling import MEANS, Activations, AnyPooling, TokenizedPrompt, counted
from steer_tools.engines.site_edits import SiteEdits, refuse_overflow
from steer_tools.errors import LayerError, PromptError, UnsupportedFeatureError
from steer_tools.progress import reported
from steer_tools.prompts import NEUTRAL_PROMPTS, ChatPrompt, Prompt, TextPrompt, TokenPrompt, require_user_message

_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu")
_BOS, _END, _SYSTEM, _USER, _ASSISTANT = range(5)
_SPECIAL = ("<s>", "<end>", "<system>", "<user>", "<assistant>")
_ROLES = ("system", "user", "assistant")
_WORDS = tuple(map("".join, product(_SYLLABLES, repeat=2)))
_VOCABULARY = (*_SPECIAL, *_WORDS)
_WIDTH, _LAYERS, _CONTEXT = 16, 4, 512
# What each block's matrices may change, so that all layers count and none drowns the others.
_SHARE, _SHARPNESS = 0.35, 1.5


class FakeEngine:
    """A toy whose weights follow from its name, so that two of one name are one model and others are not."""

    def __init__(self, name: str = "fake") -> None:
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))
        self._embedding = torch.randn(len(_VOCABULARY), _WIDTH, generator=generator)
        scale = _SHARE / _WIDTH**0.5
        self._mlps = scale * torch.randn(_LAYERS, _WIDTH, _WIDTH, generator=generator)
        self._attentions = scale * torch.randn(_LAYERS, _WIDTH, _WIDTH, generator=generator)
        self._unembedding = torch.randn(len(_VOCABULARY), _WIDTH, generator=generator) * _SHARPNESS / _WIDTH**0.5
        self._unembedding[: len(_SPECIAL)] = 0  # They are about as likely as any word, so that texts are mostly words.
        self._ambient: Plan = ()
        self.neutral_prompts: tuple[Prompt, ...] = NEUTRAL_PROMPTS
        self.info = ModelInfo(
            name=name,
            family="fake",
            fingerprint=hashlib.sha256(self._embedding.numpy().tobytes()).hexdigest()[:16],
            layers=_LAYERS,
            hidden_size=_WIDTH,
            dtype="float32",
            device="cpu",
            engine="fake",
            has_chat_template=True,
            context_length=_CONTEXT,
        )

    def resolve_layer(self, layer: object) -> int:
        """Return a layer counted from 0."""
        return counted_layer(layer, _LAYERS)

    def read(self, prompts: Sequence[Prompt], sites: Sequence[Site], pooling: AnyPooling) -> Activations:
        """Return the mean over the pooled tokens of each prompt."""
        named = [self.tokenize(prompt).pooled(pooling) for prompt in prompts]
        traces, sinks = self.trace(prompts, sites), self.sinks(prompts)
        masks = [without(*pair) if pooling in MEANS else pair[0] for pair in zip(named, sinks, strict=True)]
        means = {
            site: torch.stack([trace[site][mask].mean(dim=0) for trace, mask in zip(traces, masks, strict=True)])
            for site in sites
        }
        return Activations(means, *counted(named, masks, sinks))

    def sinks(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return which tokens are much longer than the others after some block."""
        found: list[Tensor] = []
        for prompt in prompts:
            encoded = self.tokenize(prompt)
            states = self._states(Row(prompt), encoded)
            norms = torch.stack([states[Site(layer)].norm(dim=1) for layer in range(_LAYERS)])
            found.append(attention_sinks(norms, encoded.special))
        return found

    def trace(self, prompts: Sequence[Prompt], sites: Sequence[Site]) -> list[dict[Site, Tensor]]:
        """Return every token's states, without what is applied."""
        for site in sites:
            self.width(site)
        traces: list[dict[Site, Tensor]] = []
        for prompt in reported(prompts, "reading prompts"):
            states = self._states(Row(prompt), self.tokenize(prompt))
            traces.append({site: states[site].clone() for site in sites})
        return traces

    def width(self, site: Site) -> int:
        """Return the size of the state, which is the same everywhere."""
        self.resolve_layer(site.layer)
        if site.component == "embedding" and site.layer != 0:
            raise LayerError(f"The embedding has no layer {site.layer}", valid="0: it is what the first block is given")
        if site.head is not None:
            raise UnsupportedFeatureError(f"There is no {site}: the engine 'fake' has no heads", valid="no head")
        return _WIDTH

    def decided(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with what acts on each, after refusing what the toy cannot do."""
        self._refuse_plans([row.plan for row in rows])
        for row in rows:
            if any(placement.positions.needs_chat for placement in row.plan):
                require_user_message(row.prompt)
        return rows_decided(rows, self.read)

    def tokenize(self, prompt: Prompt, new_tokens: int = 0) -> TokenizedPrompt:
        """Return the words of a prompt with what is known of each; `new_tokens` more must fit into the context."""
        after_user = response = NOWHERE
        match prompt:
            case TextPrompt(text):
                tokens = (_BOS, *_ids(text))
            case TokenPrompt(given):
                tokens = given
            case ChatPrompt():
                tokens = (_BOS,)
                for role, content in prompt.messages:
                    if role not in _ROLES:
                        raise PromptError(
                            f"The toy does not know the role {role!r}", valid=", ".join(map(repr, _ROLES))
                        )
                    tokens = (*tokens, _VOCABULARY.index(f"<{role}>"), *_ids(content))
                    after_user = len(tokens) if role == "user" else after_user
                if not prompt.ends_with_assistant:
                    tokens = (*tokens, _ASSISTANT)
                else:
                    response = len(tokens) - len(_ids(prompt.messages[-1][1]))
        if not tokens or max(tokens) >= len(_VOCABULARY):
            raise PromptError(f"The prompt {prompt!s:.80} is no text of the toy", valid="ids below its vocabulary")
        if len(tokens) + new_tokens > _CONTEXT:
            raise PromptError(
                f"A prompt of {len(tokens)} tokens with {new_tokens} more does not fit into the model's context",
                valid=f"at most {_CONTEXT} tokens together",
            )
        special = tuple(token < len(_SPECIAL) for token in tokens)
        return TokenizedPrompt(tokens, self.texts(tokens), special, int(tokens[0] == _BOS), after_user, response)

    def goes_round_template(self, prompt: Prompt) -> bool:
        """Return whether a prompt is a text: none can hold the words that stand for roles."""
        return isinstance(prompt, TextPrompt)

    def texts(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the words."""
        return tuple(_VOCABULARY[token] for token in tokens)

    def generate(self, rows: Sequence[Row], sampling: Sampling) -> list[Generation]:
        """Continue each row by itself; beams are refused."""
        if sampling.beams > 1:
            raise UnsupportedFeatureError("The engine 'fake' has no beam search", valid="beams=1")
        rows = self.decided(rows)
        encoded = [(row, self.tokenize(row.prompt, sampling.max_new_tokens)) for row in rows]
        return [self._continued(row, prompt, sampling) for row, prompt in reported(encoded, "generating tokens")]

    def keeping(self) -> AbstractContextManager[None]:
        """Keep nothing: there is nothing to gain."""
        return nullcontext()

    def score(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return the log-probability of each completion token."""
        pairs = list(zip(self.decided(rows), self._completions(rows, completions), strict=True))
        return [
            self._before(row, tokens).gather(1, torch.tensor(tokens)[:, None])[:, 0]
            for row, tokens in reported(pairs, "scoring completions")
        ]

    def read_completions(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], layers: Sequence[int]
    ) -> list[CompletionReading]:
        """Return scores, and means of the states of the completions' tokens."""
        rows, sites = [Row(prompt) for prompt in prompts], {layer: Site(layer) for layer in layers}
        for site in sites.values():
            self.width(site)
        found: list[CompletionReading] = []
        for row, own, scores in zip(
            rows, self._completions(rows, completions), self.score(rows, completions), strict=True
        ):
            states = self._states(row, self.tokenize(row.prompt), own)
            means = {layer: mean_at_text(states[site][-len(own) :]) for layer, site in sites.items()}
            found.append(CompletionReading(scores, means))
        return found

    def distributions(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return the log-probabilities of each row's next token."""
        return [self._before(row, (_END,))[0] for row in self.decided(rows)]

    def divergences(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return KL(unsteered‖row) before each completion token."""
        found: list[Tensor] = []
        for row, tokens in zip(self.decided(rows), self._completions(rows, completions), strict=True):
            reference, steered = self._before(Row(row.prompt), tokens), self._before(row, tokens)
            found.append((reference.exp() * (reference - steered)).sum(dim=-1))
        return found

    def unembedding(self) -> Unembedding:
        """Return the output matrix, before which there is no norm."""
        return Unembedding(torch.ones(_WIDTH), False, self._unembedding.clone())

    def ambient(self) -> Plan:
        """Return the plan that `next_word` follows."""
        return self._ambient

    def set_ambient(self, plan: Plan) -> None:
        """Make `next_word` follow `plan`; refused plans leave the old one in place."""
        self._refuse_plans([plan])
        self._ambient = plan

    def hooks_are_live(self) -> bool:
        """There are none that could come off."""
        return True

    def next_word(self, text: str) -> str:
        """Return the likeliest next word under what is applied: what another caller of the model would see."""
        (log_probs,) = self.distributions([Row(TextPrompt(text), self._ambient)])
        return _VOCABULARY[int(log_probs.argmax())]

    def detach(self) -> None:
        """Forget what is applied."""
        self._ambient = ()

    def _refuse_plans(self, plans: Sequence[Plan]) -> None:
        placements = [placement for plan in plans for placement in plan]
        for placement in placements:
            self.width(placement.site)
            for reading in placement.condition.readings if placement.condition is not None else ():
                self.width(reading.site)
        refuse_overflow(placements, torch.float32, self.width)

    def _completions(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[tuple[int, ...]]:
        added = [_ids(given) if isinstance(given, str) else tuple(given) for given in completions]
        if any(not tokens for tokens in added):
            raise PromptError("A completion has no token", valid="some text, or at least one token id")
        for row, tokens in zip(rows, added, strict=True):
            self.tokenize(row.prompt, len(tokens))
        return added

    def _states(self, row: Row, encoded: TokenizedPrompt, added: Sequence[int] = ()) -> dict[Site, Tensor]:
        """Return what is at each site, (tokens, width), after the edits of the row's plan."""
        tokens = torch.tensor((*encoded.tokens, *added))
        geometry = encoded.geometry(len(tokens))
        states: dict[Site, Tensor] = {}

        def edited(site: Site, state: Tensor) -> Tensor:
            placements = [placement for placement in row.plan if placement.site == site]
            changed = SiteEdits([placements])(state[None], geometry) if placements else None
            states[site] = state if changed is None else changed[0]
            return states[site]

        state = edited(Site(0, "embedding"), self._embedding[tokens])  # (tokens, width)
        counts = torch.arange(1, len(tokens) + 1)[:, None]
        for layer in range(_LAYERS):
            mean = state.cumsum(dim=0) / counts
            attention = edited(Site(layer, "attention"), mean @ self._attentions[layer])
            mlp = edited(Site(layer, "mlp"), state @ self._mlps[layer])
            state = edited(Site(layer), state + attention + mlp)
        return states

    def _before(self, row: Row, added: Sequence[int]) -> Tensor:
        """Return the log-probabilities before each added token, (tokens, vocabulary)."""
        states = self._states(row, self.tokenize(row.prompt), added[:-1])
        last = states[Site(_LAYERS - 1)][-len(added) :]
        return (last @ self._unembedding.T).log_softmax(dim=-1)

    def _continued(self, row: Row, encoded: TokenizedPrompt, sampling: Sampling) -> Generation:
        generator = torch.Generator().manual_seed(row.seed)
        tokens: list[int] = []
        log_probs: list[Tensor] = []
        while len(tokens) < sampling.max_new_tokens:
            state = self._states(row, encoded, tokens)[Site(_LAYERS - 1)][-1]
            logits = self._unembedding @ state
            log = logits.log_softmax(dim=-1)
            seen = torch.tensor((*encoded.tokens, *tokens))
            token = int(_chosen(_penalized(logits, seen, sampling.repetition_penalty), sampling, generator))
            if token == _END:
                break
            tokens.append(token)
            log_probs.append(log[token])
        return Generation(
            prompt_tokens=encoded.tokens,
            tokens=tuple(tokens),
            text="".join(f" {word}" for word in self.texts(tokens)),
            log_probs=torch.stack(log_probs) if log_probs else torch.zeros(0),
            ended=len(tokens) < sampling.max_new_tokens,
        )


def _ids(text: str) -> tuple[int, ...]:
    """Return the ids of a text's words; a word that the toy does not have stands for one that it has."""
    return tuple(_id(word.strip(".,:;?!\"'()").lower()) for word in text.split())


@lru_cache(maxsize=10_000)
def _id(word: str) -> int:
    if word in _WORDS:
        return len(_SPECIAL) + _WORDS.index(word)
    return len(_SPECIAL) + int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little") % len(_WORDS)


def _penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Return the logits with those of `seen` tokens made smaller by a penalty above 1."""
    of_seen = logits[seen]
    return logits.scatter(0, seen, torch.where(of_seen < 0, of_seen * penalty, of_seen / penalty))


def _chosen(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Return the token of a step: the likeliest, or one drawn from the warped distribution."""
    if sampling.temperature == 0:
        return logits.argmax()
    warped, order = (logits / sampling.temperature).softmax(dim=-1).sort(descending=True)
    allowed = warped.cumsum(dim=0) - warped < sampling.top_p
    if sampling.top_k:
        allowed[sampling.top_k :] = False
    return order[torch.multinomial(warped * allowed, 1, generator=generator)]
