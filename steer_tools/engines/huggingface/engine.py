"""The engine for models of Hugging Face transformers: prompts and plans in, activations, texts and scores out.

It must not know tools. It composes the modules beside it: each does one of its jobs.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from steer_tools.core.plan import Plan
from steer_tools.core.site import Site
from steer_tools.engines.base import (
    Completion,
    CompletionGradients,
    CompletionReading,
    Generation,
    ModelInfo,
    Observation,
    ObservedEdit,
    Row,
    Sampling,
    Unembedding,
)
from steer_tools.engines.facets import Watched, Writer
from steer_tools.engines.huggingface.architecture import (
    Architecture,
    find_architecture,
    measure_unembedding,
    refuse_unsteerable_state,
)
from steer_tools.engines.huggingface.block_parts import BlockParts, find_parts
from steer_tools.engines.huggingface.branch_passes import BranchPasses
from steer_tools.engines.huggingface.branches import Branches
from steer_tools.engines.huggingface.decoding import (
    ChoosingProcessor,
    Decoder,
    ForcingProcessor,
    pad,
)
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks
from steer_tools.engines.huggingface.memory import Memory
from steer_tools.engines.huggingface.model_state import ModelState
from steer_tools.engines.huggingface.output_parameters import find_writers
from steer_tools.engines.huggingface.pass_geometry import GenerateCall, TokenMarks
from steer_tools.engines.huggingface.probe import Behaviour, probe
from steer_tools.engines.huggingface.reading import Reader
from steer_tools.engines.huggingface.row_plans import RowPlans, refuse_placements, refuse_sites
from steer_tools.engines.huggingface.scoring import Scorer
from steer_tools.engines.huggingface.sharing_trial import SharingTrial
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.engines.huggingface.tokenization import Tokenization
from steer_tools.engines.huggingface.weights_identity import fingerprints
from steer_tools.engines.pooling import Activations, AnyPooling, TokenizedPrompt
from steer_tools.errors import ArgumentError, UnsupportedModelError
from steer_tools.progress import reporting_to
from steer_tools.prompts import Prompt

# Prompt and new tokens of all rows that share one cache, where memory holds them.
_GENERATION_TOKENS = 65_536
# What a model raises that lacks an input.
_MODEL_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
# Any ids will do for a look at the logits before the first hook and after the last.
_REFERENCE_TOKENS = (4, 6, 8, 9, 5)


class HuggingFaceEngine:
    """Holds one model and its tokenizer; the model keeps its hooks until `detach`."""

    def __init__(
        self,
        model: object,
        tokenizer: Any,
        name: str | None = None,
        *,
        loaded_from: str | None = None,
        template_options: Mapping[str, object] | None = None,
    ) -> None:
        # `loaded_from` says of which checkpoint the weights are, where that is known.
        self.architecture: Architecture = find_architecture(model)
        self._model = cast(Any, model)
        self._memory = Memory(self.architecture)
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # A wrapper that was compiled before would go round the hooks.
        if not callable(tokenizer) or not hasattr(tokenizer, "added_tokens_decoder"):
            raise ArgumentError(
                f"tokenizer is a {type(tokenizer).__name__}",
                valid="the model's own tokenizer, loaded with transformers' AutoTokenizer",
                fix="A processor holds it as processor.tokenizer.",
            )
        try:
            self._pristine = self._reference_logits()
        except _MODEL_ERRORS as error:
            raise UnsupportedModelError(
                f"{type(model).__name__} does not run on token ids alone ({error})", valid="models of text"
            ) from error
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        self.tokenizer = tokenizer
        self._tokens = Tokenization(tokenizer, self.architecture.context_length, vocabulary, template_options)
        self.neutral_prompts = self._tokens.neutral_prompts
        marks = TokenMarks(self._tokens.bos_token, self._tokens.answer_start, self._tokens.user_start)
        self._taps = Taps(self.architecture, lambda: self.parts)
        self._hooks = SteeringHooks(self.architecture, self._taps, marks)
        try:
            self._hooks.put_on()
            self._decoder = Decoder(self.architecture, self._tokens)
            with reporting_to(None), self._memory.undivided("The probe of the model takes"):
                self.behaviour: Behaviour = probe(self.architecture, self._hooks, self._forced)
            self.architecture = replace(self.architecture, idle_layers=self.behaviour.idle_layers)
            self._plans = RowPlans(self.architecture, self._taps, self._hooks, self._tokens, self._read)
            pad_token = self._tokens.pad_token
            passes = BranchPasses(self.architecture, self._hooks, self._plans, self._memory, pad_token=pad_token)
            trial = SharingTrial(
                self.architecture, self._hooks, self.behaviour, passes, self._forced, pad_token=pad_token
            )
            self._branches = Branches(self.architecture, passes, trial)
            self._reader = Reader(
                self.architecture, self._taps, self._hooks, self._tokens, self.behaviour, self._memory, self._branches
            )
            batches = self._reader.batches
            self._scorer = Scorer(
                self.architecture, self._hooks, self._tokens, self._plans, batches, self._branches, self._memory
            )
            fingerprint, *former = fingerprints(self._model, loaded_from)
            self.info = ModelInfo(
                name=name or getattr(self._model.config, "_name_or_path", "") or type(model).__name__,
                family=self.architecture.family,
                fingerprint=fingerprint,
                other_fingerprints=tuple(former),
                layers=len(self.architecture.blocks),
                hidden_size=self.architecture.hidden_size,
                dtype=str(self.architecture.dtype).removeprefix("torch."),
                device=str(self.architecture.device),
                engine="huggingface",
                has_chat_template=bool(getattr(tokenizer, "chat_template", None)),
                context_length=self.architecture.context_length,
                idle_layers=self.architecture.idle_layers,
                language=self._tokens.language,
                template_options=dict(template_options or {}),
            )
            self._state = ModelState.of(self.architecture.model, tokenizer)
        except BaseException:
            self._hooks.detach()
            raise

    @property
    def module(self) -> nn.Module:
        """The model, as transformers loads and saves it."""
        return self.architecture.model

    def holds(self, model: object) -> bool:
        """Return whether this engine steers exactly this model object."""
        return self._model is model

    def aside(self) -> AbstractContextManager[None]:
        """Let this thread's calls of the model go as if this engine were not there."""
        return self._hooks.aside()

    def changes(self) -> tuple[str, ...]:
        """Return what of the model or its tokenizer was changed since this engine was made, in words."""
        self._tokens.forget()  # Not all that a tokenizer may do otherwise shows in its state.
        return ModelState.of(self.architecture.model, self.tokenizer).changes_since(self._state)

    def renewed(self, tokenizer: Any, name: str, template_options: Mapping[str, object] | None) -> "HuggingFaceEngine":
        """Return another engine of the same model; until this one is detached, both have their hooks on it."""
        engine: HuggingFaceEngine | None = None
        try:
            with self.aside():
                engine = HuggingFaceEngine(self._model, tokenizer, name, template_options=template_options)
            known = (engine.info.fingerprint, *engine.info.other_fingerprints)
            if engine._state.has_weights_of(self._state):  # It may have been known of which checkpoint they are.
                known = (self.info.fingerprint, *self.info.other_fingerprints, *known)
            fingerprint, *others = dict.fromkeys(known)
            engine.info = replace(
                engine.info, fingerprint=fingerprint, other_fingerprints=tuple(others), warnings=self.info.warnings
            )
        except BaseException:
            if engine is not None:
                engine.detach()
            raise
        return engine

    def resolve_layer(self, layer: object) -> int:
        """Return a layer counted from 0."""
        return self.architecture.resolve_layer(layer)

    def read(self, prompts: Sequence[Prompt], sites: Sequence[Site], pooling: AnyPooling) -> Activations:
        """Return one activation a prompt at each site, all sites from one pass that stops after the deepest, if no mean
        has to know what is a sink behind it."""
        refuse_sites(self.architecture, self._taps, sites)
        return self._reader.read(prompts, sites, pooling)

    def sinks(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return which tokens of each prompt are attention sinks."""
        return self._reader.sinks(prompts)

    def trace(self, prompts: Sequence[Prompt], sites: Sequence[Site]) -> list[dict[Site, Tensor]]:
        """Return the activations of every token."""
        refuse_sites(self.architecture, self._taps, sites)
        return self._reader.trace(prompts, sites)

    def width(self, site: Site) -> int:
        """Return the size of the last dimension of what is at a site."""
        refuse_sites(self.architecture, self._taps, [site])
        return self._taps.at(site).width

    def heads(self, layer: int) -> int:
        """Return how many heads the attention of a layer has."""
        self.width(Site(layer, "attention", 0))
        return self.parts[layer].mixers[0].heads or 0

    def decided(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with what acts on each."""
        return self._plans.decided(rows)

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the tokens that the model is given for `prompt`."""
        return self._tokens.describe(prompt)

    def goes_round_template(self, prompt: Prompt) -> bool:
        """Return whether a prompt is a text without the control tokens of the chat template that there is."""
        return self._tokens.goes_round_template(prompt)

    def texts(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return each token as text."""
        return self._tokens.texts.of(tokens)

    def generate(self, rows: Sequence[Row], sampling: Sampling) -> list[Generation]:
        """Continue each row under its own plan; rows are batched together up to a budget of tokens and memory."""
        rows = self._plans.decided(rows)
        encoded = self._tokens.encode_each((row.prompt for row in rows), sampling.max_new_tokens)
        lengths = [len(tokens.tokens) + sampling.max_new_tokens for tokens in encoded]
        self._memory.require_generation(max(lengths), sampling.max_new_tokens)
        company = self.behaviour.company
        budget = 0 if company == "alone" else _GENERATION_TOKENS

        def row_bytes(tokens: int) -> int:
            return sampling.beams * self._memory.generating_bytes(tokens)

        def run(batch: list[int]) -> dict[int, Generation]:
            batch_rows, prompts = [rows[i] for i in batch], [encoded[i] for i in batch]
            ids, real = pad([prompt.tokens for prompt in prompts], self._tokens.pad_token, left=True)
            chooser = ChoosingProcessor(sampling, [row.seed for row in batch_rows], real)
            compiled = self._plans.run(batch_rows, prompts, real)
            shares = sampling.use_cache and sampling.beams == 1
            cache = self._branches.cache(batch_rows, prompts, sampling.max_new_tokens) if shares else None
            with self._hooks.running(compiled), self._hooks.generating(GenerateCall()):
                new = self._decoder.decode(ids, real, sampling, chooser if sampling.beams == 1 else None, cache=cache)
            steps = torch.stack(chooser.log_probs, dim=1).cpu() if chooser.log_probs else torch.zeros(len(batch), 0)
            made = zip(batch, new.tolist(), steps, strict=True)
            return {i: self._decoder.finish(encoded[i], tokens, log_probs) for i, tokens, log_probs in made}

        batches = self._memory.batches(lengths, budget, row_bytes, equal_only=company == "equal")
        generations: dict[int, Generation] = {}
        for _, made in self._memory.halved(batches, run):
            generations |= made
        ordered = [generations[i] for i in range(len(rows))]
        return ordered if sampling.beams == 1 else self._with_scores(rows, ordered)

    def keeping(self) -> AbstractContextManager[None]:
        """Keep what unsteered prompts left behind from one call of this thread to the next, until the block ends."""
        return self._branches.keeping()

    def score(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return the log-probability of each completion token; rows of one prompt share what it leaves behind."""
        return self._scorer.score(self._plans.decided(rows), completions)

    def read_completions(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], layers: Sequence[int]
    ) -> list[CompletionReading]:
        """Return scores of completions and what layers put out at their tokens, prompts being run once."""
        refuse_sites(self.architecture, self._taps, [Site(layer) for layer in layers])
        return self._scorer.read(prompts, completions, layers)

    def distributions(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return the log-probabilities of each row's next token."""
        return self._scorer.distributions(self._plans.decided(rows))

    def divergences(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return KL(unsteered‖row) before each completion token."""
        return self._scorer.divergences(self._plans.decided(rows), completions)

    def gradients(
        self, rows: Sequence[Row], completions: Sequence[Completion], sites: Sequence[Site]
    ) -> list[CompletionGradients]:
        """Return how each completion's log-probability changes with the edited activations at each site."""
        refuse_sites(self.architecture, self._taps, sites)
        return self._scorer.gradients(self._plans.decided(rows), completions, sites)

    def replay(
        self, rows: Sequence[Row], completions: Sequence[Sequence[int]], *, use_cache: bool, batched: bool
    ) -> list[Tensor]:
        """Return the logits before each given token, decoded step by step, with or without cache and company."""
        rows = self._plans.decided(rows)
        if not batched and len(rows) > 1:
            pairs = zip(rows, completions, strict=True)
            return [self.replay([r], [c], use_cache=use_cache, batched=True)[0] for r, c in pairs]
        encoded = self._tokens.encode_each((row.prompt for row in rows), max(map(len, completions)))

        def run(batch: list[int]) -> dict[int, Tensor]:
            prompts, forced = [encoded[i] for i in batch], [completions[i] for i in batch]
            compile_for = partial(self._plans.run, [rows[i] for i in batch], prompts)
            logits = self._forced([own.tokens for own in prompts], forced, compile_for, use_cache=use_cache)
            return {i: logits[row, : len(completions[i])] for row, i in enumerate(batch)}

        replayed: dict[int, Tensor] = {}
        for _, made in self._memory.halved([[*range(len(rows))]], run):
            replayed |= made
        return [replayed[i] for i in range(len(rows))]

    def observe(self, prompt: Prompt, max_new_tokens: int) -> Observation:
        """Generate as a user's own `model.generate` would, with independent hooks before and after ours."""
        refuse_unsteerable_state(self._model)
        sampling = Sampling(max_new_tokens)
        encoded = self._tokens.encode(prompt, max_new_tokens)
        (row,) = self._plans.decided([Row(prompt, self.ambient())])
        after_user = self._plans.after_user(row, encoded)
        ids = torch.tensor([encoded.tokens], device=self.architecture.device)
        passes = dict.fromkeys((placement.site for placement in row.plan), 0)
        edits: list[ObservedEdit] = []

        def record(site: Site, before: Tensor, after: Tensor) -> None:
            before, after = (hidden.flatten(0, -2).cpu() for hidden in (before, after))
            # Pass i ends with the token that produces new token i, however many before it are run again.
            start = len(encoded.tokens) + passes[site] - len(before)
            edits.append(ObservedEdit(site, start, before, after))
            passes[site] += 1

        real = torch.ones_like(ids, dtype=torch.bool)
        chooser = ChoosingProcessor(sampling, [0], real)
        with (
            # As what is applied to every caller, without the layout that the engine's own batches have.
            self._hooks.running(self._plans.ambient(row.plan) or Run()) as run,
            self._hooks.witnessing(passes, record),
            self._hooks.generating(GenerateCall(ids.shape[1], ids=ids)),
            self._memory.undivided("Generating one row takes"),
        ):
            new = self._decoder.decode(ids, real, sampling, chooser, stops=False)
        log_probs = torch.stack(chooser.log_probs, dim=1)[0].cpu()
        return Observation(
            generation=self._decoder.finish(encoded, new[0].tolist(), log_probs, stops=False),
            plan=row.plan,
            edits=tuple(edits),
            first_position=self._tokens.first_position(encoded),
            after_user=after_user,
            firings={site: run.edits[site].firings for site in passes},
        )

    def watching(self, sites: Sequence[Site], see: Callable[[Watched], None]) -> AbstractContextManager[None]:
        """Show `see` what is at each site, after all edits, in this thread's own calls of the model."""
        refuse_sites(self.architecture, self._taps, sites)
        return self._hooks.watching(sites, see)

    def restoration(self) -> tuple[float, float]:
        """Hold the logits without what is applied against those from before the first hook."""
        with self._hooks.running(Run()):
            first, second = self._reference_logits(), self._reference_logits()
        return float((first - self._pristine).abs().max()), float((first - second).abs().max())

    def unembedding(self) -> Unembedding:
        """Return the final norm and the output matrix."""
        with self._memory.undivided("The output matrix takes"):
            return measure_unembedding(self.architecture)

    def ambient(self) -> Plan:
        """Return the plan that every other caller sees."""
        return () if self._hooks.ambient is None else self._hooks.ambient.plan

    def set_ambient(self, plan: Plan) -> None:
        """Make every other caller see `plan`; refused plans leave the old one in place.

        Taking placements off is never refused, whatever state the model is in.
        """
        ambient = self.ambient()
        if any(placement not in ambient for placement in plan):
            refuse_placements(self.architecture, self._taps, plan)
        self._hooks.ambient = self._plans.ambient(plan)

    @cached_property
    def parts(self) -> tuple[BlockParts, ...]:
        """What writes to the residual stream in each block, found by one unsteered pass."""
        with self._hooks.running(Run()), self._memory.undivided("Finding the parts of the blocks takes"):
            return find_parts(self.architecture)

    def find_writers(self) -> tuple[Writer, ...]:
        """Return the parameters that make what is written to the residual stream, told by one unsteered pass."""
        with self._hooks.running(Run()), self._memory.undivided("Finding what writes to the stream takes"):
            return find_writers(self.architecture, self.parts)

    def hooks_are_live(self) -> bool:
        """Return whether all hooks are on the model."""
        return self._hooks.are_live()

    def detach(self) -> None:
        """Take the hooks off; this engine is of no use afterwards."""
        self._hooks.detach()

    def _read(self, prompts: Sequence[Prompt], sites: Sequence[Site], pooling: AnyPooling) -> Activations:
        return self._reader.read(prompts, sites, pooling)

    def _forced(
        self,
        prompts: Sequence[Sequence[int]],
        forced: Sequence[Sequence[int]],
        run_of: Callable[[Tensor], Run],
        *,
        use_cache: bool = True,
        cache: object = None,
    ) -> Tensor:
        """Return the logits (rows, steps, vocabulary) before each forced token of a left-padded batch.

        `run_of` gives its run from where it is no padding, (rows, columns). `cache` holds the columns before the last.
        """
        ids, real = pad(prompts, self._tokens.pad_token, left=True)
        forcer = ForcingProcessor(pad(forced, self._tokens.pad_token, left=False)[0])
        sampling = Sampling(max(map(len, forced)), use_cache=use_cache)
        with self._hooks.running(run_of(real)), self._hooks.generating(GenerateCall()):
            self._decoder.decode(ids, real, sampling, forcer, stops=False, cache=cache)
        return torch.stack(forcer.logits, dim=1)

    def _with_scores(self, rows: Sequence[Row], generations: Sequence[Generation]) -> list[Generation]:
        """Fill in the log-probabilities that beam search does not give."""
        full = [i for i, generation in enumerate(generations) if generation.tokens]
        scores = self.score([rows[i] for i in full], [generations[i].tokens for i in full])
        scored = dict(zip(full, scores, strict=True))
        return [replace(own, log_probs=scored.get(i, own.log_probs)) for i, own in enumerate(generations)]

    def _reference_logits(self) -> Tensor:
        ids = torch.tensor([_REFERENCE_TOKENS], device=self.architecture.device)
        with torch.no_grad(), self._memory.undivided("One pass over a few tokens takes"):
            return self._model(ids, use_cache=False).logits[0].float().cpu()
