"""What the calls that others make of a model are given: `model.generate(...)`, and the calls that lead to a pass.

Arguments come in and are noted, or refused. It must not know hooks or plans.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from steer_tools.engines.huggingface.batch_layout import Layout
from steer_tools.errors import UnsupportedCallError

# What makes `generate` run the model on other tokens than the rows' own, or by code that is not its own.
_OTHER_WAYS = (
    "assistant_model",
    "assistant_early_exit",
    "prompt_lookup_num_tokens",
    "use_mtp",
    "guidance_scale",
    "custom_generate",
)
# What models call what they keep between steps; most say past_key_values.
CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states", "cache")
# What a pass over text is given; other tensors, such as an image, say something that token ids do not.
_OF_TEXT = {
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "cache_position",
    "labels",
    "logits_to_keep",
    "kwargs",  # They are noted one by one, too.
    *CACHES,
}
_HARMLESS = {"guidance_scale": 1}


@dataclass(eq=False)
class GenerateCall:
    """A `model.generate` under way.

    Attributes:
        columns: The columns of its prompt, if they are known yet.
        mask: (rows, columns) bool, once it is known.
        ids: (rows, columns) the prompt's token ids, where it has some.
        seen: The columns that its passes have shown so far.
        first: The columns that its first pass showed, once there was one.
        cache: What its first pass was given to keep keys and values in.
        layout: Of its prompt, once a pass has been placed.
    """

    columns: int | None = None
    mask: Tensor | None = None
    ids: Tensor | None = None
    seen: int = 0
    first: int | None = None
    cache: Any = None
    layout: Layout | None = None

    def owns(self, cache: Any, tokens: Tensor) -> bool:
        """Whether a pass is one of this generate's: with its cache, or without one over its whole text, grown."""
        if self.first is None:
            return True
        if cache is not None or self.cache is not None:
            return cache is self.cache or not hasattr(self.cache, "get_seq_length")
        if self.ids is None or tokens.is_floating_point() or tokens.shape[1] <= self.seen:
            return tokens.shape[1] > self.seen
        prompt = tokens[:, : self.ids.shape[1]]
        return torch.equal(prompt, self.ids.repeat_interleave(len(tokens) // len(self.ids), 0))


@dataclass
class Callers:
    """The calls that lead to a pass, the whole model's first and the text decoder's last, with their arguments."""

    modules: list[nn.Module] = field(default_factory=list)
    arguments: list[Mapping[str, Any]] = field(default_factory=list)

    def enter(self, module: nn.Module, arguments: Mapping[str, Any]) -> None:
        """Note a call of `module`; one that is entered again was left by an interrupt, of which torch tells no hook."""
        if module in self.modules:
            self.modules.clear()
            self.arguments.clear()
        self.modules.append(module)
        self.arguments.append(arguments)

    def leave(self, module: nn.Module) -> None:
        """Forget the innermost call of `module`, and all inside it."""
        if module in self.modules:
            depth = len(self.modules) - 1 - self.modules[::-1].index(module)
            del self.modules[depth:], self.arguments[depth:]

    def other_input(self) -> str | None:
        """Return the name of what the outermost call is given beside a text's tokens, if there is something."""
        given = self.arguments[0].items()
        return next((name for name, value in given if name not in _OF_TEXT and _holds_tensors(value)), None)

    def find(self, *names: str) -> Any:
        """Return the innermost of the given arguments that is not None."""
        found = (call.get(name) for call in reversed(self.arguments) for name in names)
        return next((value for value in found if value is not None), None)


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, cast(Mapping[Any, object], value).values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensors, cast(list[object], value)))
    return isinstance(value, Tensor)


def noted_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GenerateCall:
    """Note what the arguments of a `model.generate(*args, **kwargs)` say of its prompt."""
    given = (*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds")))
    tensors = [value for value in given if isinstance(value, Tensor)]
    ids = next((value for value in tensors if value.dim() == 2 and not value.is_floating_point()), None)
    mask = kwargs.get("attention_mask")
    return GenerateCall(
        columns=tensors[0].shape[1] if tensors else None,
        mask=mask.bool().cpu() if isinstance(mask, Tensor) and mask.dim() == 2 else None,
        ids=ids,
    )


def refuse_other_passes(args: tuple[Any, ...], kwargs: Mapping[str, Any], models_own: Any) -> None:
    """Refuse what runs the model on other tokens than the rows' own inside one `generate`, and sampled beams.

    It may be named by an argument, by the generation config that is passed, or by the model's own.

    Raises:
        UnsupportedCallError: The call asks for it.
    """
    configs = [kwargs.get("generation_config"), *args[1:2], models_own]

    def asked(name: str) -> list[Any]:
        return [kwargs[name]] if name in kwargs else [getattr(config, name, None) for config in configs]

    for name in _OTHER_WAYS:
        if any(value not in (None, False, _HARMLESS.get(name)) for value in asked(name)):
            raise UnsupportedCallError(
                f"model.generate was called with {name}, which is not supported for a steered model",
                valid="generate without it",
                fix="Leave it out, or remove the vectors.",
            )
    # Each takes the first place that says it, as generate does.
    beams, samples = (next((v for v in asked(name) if v is not None), None) for name in ("num_beams", "do_sample"))
    if samples and (beams or 1) > 1:
        raise UnsupportedCallError(
            f"model.generate was called with num_beams={beams} and do_sample=True: sampled beams mix the random "
            "numbers of several continuations, so that a steered text cannot be held against an unsteered one",
            valid="beams with do_sample=False, or sampling with num_beams=1",
        )


def refuse_right_padding(call: GenerateCall) -> None:
    """Refuse a `generate` whose prompts end in padding: a pad would make the first new token, and it is never steered.

    Raises:
        UnsupportedCallError: A row ends in padding.
    """
    if call.mask is not None and not bool(call.mask[:, -1].all()):
        raise UnsupportedCallError(
            "model.generate was called with prompts that are padded on the right, so that a pad produces the first "
            "token",
            valid="prompts that are padded on the left",
            fix="Tokenise with padding_side='left'.",
        )
