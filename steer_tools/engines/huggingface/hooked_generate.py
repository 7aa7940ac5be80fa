"""The `generate` of a hooked model, which notes its prompt: a block alone cannot tell an uncached step from one.

What such a call asks for is noted, or refused where its steering would be wrong, as continuous batching is, whose
threads would keep the reason for themselves. It must not know plans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from steer_tools.engines.huggingface.architecture import refuse_unsteerable_state
from steer_tools.engines.huggingface.pass_geometry import GenerateCall
from steer_tools.engines.huggingface.stand_ins import StandIn
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
_HARMLESS = {"guidance_scale": 1}
# How a manager of continuous batching is made to run the model.
_MANAGER_ENTRIES = ("start", "warmup", "add_request")


class _SteeredStandIn(StandIn):
    """`is_steered` says whether this thread's passes may be edited."""

    def __init__(
        self, is_steered: Callable[[], bool], model: nn.Module, original: Callable[..., Any] | None = None
    ) -> None:
        self._is_steered = is_steered
        super().__init__(model, original)


class NotingGenerate(_SteeredStandIn):
    """The `generate` that a hooked model has; `generating` takes this thread's passes for those of a call."""

    method: ClassVar[str] = "generate"

    def __init__(
        self,
        generating: Callable[[GenerateCall], AbstractContextManager[None]],
        is_steered: Callable[[], bool],
        model: nn.Module,
        original: Callable[..., Any] | None = None,
    ) -> None:
        self._generating = generating
        super().__init__(is_steered, model, original)

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the model does, with its passes known for those of this call."""
        call = _noted_call(args, kwargs)
        with self._generating(call):
            if self._is_steered():
                refuse_unsteerable_state(self._model)
                _refuse_right_padding(call)
                _refuse_other_passes(args, kwargs, getattr(self._model, "generation_config", None))
                # A forward that `generate` compiled before our hooks came ignores them.
                kwargs["disable_compile"] = True
            return self._original(*args, **kwargs)

    @override
    def _for(self, model: nn.Module, original: Callable[..., Any]) -> NotingGenerate:
        return NotingGenerate(self._generating, self._is_steered, model, original)


class GuardedContinuousBatching(_SteeredStandIn):
    """The `init_continuous_batching` that a hooked model has, by which `generate_batch` goes, too.

    It packs the tokens of all rows into one line, and runs it in a thread of its own, which would tell nobody that
    their places are not known: it leaves empty answers. So it is refused in the caller's thread, also by the managers
    that were made before something was applied.
    """

    method: ClassVar[str] = "init_continuous_batching"

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a manager, whose requests are refused while the model is steered."""
        self._refuse_steered()
        manager = self._original(*args, **kwargs)
        for name in _MANAGER_ENTRIES:
            setattr(manager, name, self._guarded(getattr(type(manager), name).__get__(manager)))
        return manager

    def _guarded(self, entry: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(entry)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._refuse_steered()
            return entry(*args, **kwargs)

        return guarded

    def _refuse_steered(self) -> None:
        if self._is_steered():
            raise UnsupportedCallError(
                "Continuous batching (model.generate_batch, model.init_continuous_batching) was called while a vector "
                "is applied or activations are recorded, and it packs the tokens of all prompts into one line, where "
                "their places are not known",
                valid="model.generate(...) with the prompts as one batch, padded on the left, or the tool generate",
                fix="Call remove_all_steering_vectors() first to use it unsteered.",
            )

    @override
    def _for(self, model: nn.Module, original: Callable[..., Any]) -> GuardedContinuousBatching:
        return GuardedContinuousBatching(self._is_steered, model, original)


def _noted_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GenerateCall:
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


def _refuse_other_passes(args: tuple[Any, ...], kwargs: Mapping[str, Any], models_own: Any) -> None:
    """Refuse what runs the model on other tokens than the rows' own inside one `generate`, and sampled beams.

    It may be named by an argument, by the generation config that is passed, or by the model's own.
    """
    configs = [kwargs.get("generation_config"), *args[1:2], models_own]

    def asked(name: str) -> list[Any]:
        return [kwargs[name]] if name in kwargs else [getattr(config, name, None) for config in configs]

    for name in _OTHER_WAYS:
        if any(value not in (None, False, _HARMLESS.get(name)) for value in asked(name)):
            raise UnsupportedCallError(
                f"model.generate was called with {name}, which is not supported for a steered or recorded model",
                valid="generate without it",
                fix="Leave it out, or remove the vectors and the recording.",
            )
    # Each takes the first place that says it, as generate does.
    beams, samples = (next((v for v in asked(name) if v is not None), None) for name in ("num_beams", "do_sample"))
    if samples and (beams or 1) > 1:
        raise UnsupportedCallError(
            f"model.generate was called with num_beams={beams} and do_sample=True: sampled beams mix the random "
            "numbers of several continuations, so that a steered text cannot be held against an unsteered one",
            valid="beams with do_sample=False, or sampling with num_beams=1",
        )


def _refuse_right_padding(call: GenerateCall) -> None:
    """Refuse prompts that end in padding: a pad would make the first new token, and it is never steered."""
    if call.mask is not None and not bool(call.mask[:, -1].all()):
        raise UnsupportedCallError(
            "model.generate was called with prompts that are padded on the right, so that a pad produces the first "
            "token",
            valid="prompts that are padded on the left",
            fix="Tokenise with padding_side='left'.",
        )
