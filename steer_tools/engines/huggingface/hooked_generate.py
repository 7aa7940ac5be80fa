"""The `generate` of a hooked model, which notes its prompt: a block alone cannot tell an uncached step from one.

What such a call asks for is noted, or refused where its steering would be wrong. It must not know plans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import Tensor, nn

from steer_tools.engines.huggingface.architecture import refuse_unsteerable_state
from steer_tools.engines.huggingface.pass_geometry import GenerateCall
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


class NotingGenerate:
    """The `generate` that a hooked model has; a deep copy of the model gets one that calls the copy.

    `generating` takes this thread's passes for those of a call; `is_steered` says whether they may be edited.
    """

    def __init__(
        self,
        generating: Callable[[GenerateCall], AbstractContextManager[None]],
        is_steered: Callable[[], bool],
        model: nn.Module,
        original: Callable[..., Any] | None = None,
    ) -> None:
        self._generating, self._is_steered, self._model = generating, is_steered, model
        self._own = vars(model).get("generate")
        self._original = original or cast(Callable[..., Any], model.generate)
        self.__doc__ = self._original.__doc__
        vars(model)["generate"] = self

    @property
    def is_in_place(self) -> bool:
        """Whether the model's `generate` is this."""
        return vars(self._model).get("generate") is self

    def give_back(self) -> None:
        """Let the model have the `generate` that it had."""
        if self.is_in_place:
            del vars(self._model)["generate"]
            if self._own is not None:
                vars(self._model)["generate"] = self._own

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

    def __deepcopy__(self, memo: dict[int, Any]) -> NotingGenerate:
        copied = memo[id(self._model)]
        return NotingGenerate(self._generating, self._is_steered, copied, type(copied).generate.__get__(copied))


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


def _refuse_right_padding(call: GenerateCall) -> None:
    """Refuse prompts that end in padding: a pad would make the first new token, and it is never steered."""
    if call.mask is not None and not bool(call.mask[:, -1].all()):
        raise UnsupportedCallError(
            "model.generate was called with prompts that are padded on the right, so that a pad produces the first "
            "token",
            valid="prompts that are padded on the left",
            fix="Tokenise with padding_side='left'.",
        )
