"""The `.pt` that lm-evaluation-harness reads as `--model steered --model_args steer_path=...`: a dict by hookpoint.

Index: a hookpoint is the name of a module below the model's `base_model`, and `layers.3` is the block, from 0, whose
output is steered. Unit: `steering_coefficient` times `steering_vector`, not normalised, is added at every token, those
of the prompt and pads too. The reader, hf_steered.py of the harness, adds the vector of the last hookpoint at all of
them, so only one is written or read; it keeps the tensor's dtype and device, so that a float32 vector needs
`dtype=float32`. Its other action, `clamp`, sets a projection, which no vector's file says.
"""

import io
import re
from typing import ClassVar, cast

import torch
from torch import Tensor
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import UnsupportedFeatureError, VectorFileError, quoted
from steer_tools.formats.arrays import Contents
from steer_tools.formats.base import Decoded, Encoded, Unsaid, VectorFormat, require_residual
from steer_tools.formats.pt_format import is_steered_config, read_arrays

# The blocks below `base_model`, where they are not called `layers`.
_HOOKPOINTS = {
    **dict.fromkeys(("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj"), "h"),
    "mpt": "blocks",
    "opt": "decoder.layers",
}
_BLOCK = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*\.([0-9]{1,5})")


class LmEvalFormat(VectorFormat):
    """`.pt`, one layer, for lm-eval's model `steered`."""

    name: ClassVar[str] = "lm-eval"
    suffix: ClassVar[str] = ".pt"
    convention: ClassVar[str] = (
        "the hookpoint `layers.<n>` is the block whose output is steered, from 0; strength 1 adds coefficient x tensor"
    )
    keeps: ClassVar[frozenset[str]] = frozenset({"layer"})
    holds_several_layers: ClassVar[bool] = False

    @override
    def claims(self, data: bytes) -> bool:
        return is_steered_config(data)

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        """Serialise the one layer, at coefficient 1."""
        require_residual(vector, self.name)
        ((layer, direction),) = vector.directions.items()
        hookpoint = f"{_HOOKPOINTS.get(vector.info.model_family or '', 'layers')}.{layer}"
        steered = {
            "action": "add",
            "steering_coefficient": 1.0,
            "steering_vector": direction.clone(),
            "bias": None,
        }
        buffer = io.BytesIO()
        torch.save({hookpoint: steered}, buffer)
        return Encoded(buffer.getvalue())

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read the one vector, times its coefficient."""
        unsaid.refuse_index(name)
        layer, steered = _parse(read_arrays(encoded.data, name), name)
        direction, coefficient = steered.get("steering_vector"), steered.get("steering_coefficient")
        if (
            not isinstance(direction, Tensor)
            or isinstance(coefficient, bool)
            or not isinstance(coefficient, int | float)
        ):
            raise VectorFileError(
                f"In {name} a hookpoint lacks its tensor or its number", valid="steering_vector, steering_coefficient"
            )
        return Decoded(SteeringVector.from_directions({layer: direction.float() * float(coefficient)}))


def _parse(contents: Contents, name: str) -> tuple[int, dict[str, object]]:
    """Return the layer and what is done there."""
    hookpoints = cast(dict[object, object], contents) if isinstance(contents, dict) else {}
    if len(hookpoints) != 1:
        raise UnsupportedFeatureError(
            f"{name} has {len(hookpoints)} hookpoints, and lm-eval adds the last one's vector at all of them",
            valid="one hookpoint",
        )
    ((hookpoint, steered),) = hookpoints.items()
    block = _BLOCK.fullmatch(hookpoint) if isinstance(hookpoint, str) else None
    if block is None or not isinstance(steered, dict):
        raise UnsupportedFeatureError(
            f"The hookpoint of {name} is {quoted(hookpoint)}", valid="the output of a block, as 'layers.3'"
        )
    told = cast(dict[str, object], steered)
    if told.get("action") != "add":
        raise UnsupportedFeatureError(
            f"The action of {name} is {quoted(told.get('action'))}",
            valid="'add'",
            fix="A clamp is the intervention 'affine', whose target is the coefficient.",
        )
    return int(block[1]), told
