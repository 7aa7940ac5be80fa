"""A session's model, a plan and a folder → a checkpoint that does the same without this package, proved.

A model card that says what was baked and how it was proved lies beside it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from steer_tools.core.plan import Plan
from steer_tools.core.vectors import SteeringVector
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.facets import EditableWeights, Replay
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.engines.huggingface.loading import load_pretrained
from steer_tools.errors import ArgumentError, BakingError, SteeringError
from steer_tools.formats import write_vector
from steer_tools.prompts import Prompt, TextPrompt
from steer_tools.session.session import Session
from steer_tools.weights.bakeable_plans import Ablation, Addition, Baking, engine_for_baking, read_plan, writing_sites
from steer_tools.weights.checkpoints import copy_checkpoint, edit_checkpoint
from steer_tools.weights.plan_into_weights import edits_for
from steer_tools.weights.shards import FLOATS, INDEX, SINGLE, find_tensors, refuse_full_disk
from steer_tools.weights.tensor_edits import CheckpointEdits
from steer_tools.weights.undo_file import CARD, CARD_ENDING, CONTROL_VECTOR, UNDO, read_undo_file
from steer_tools.workspace import Workspace


@dataclass(frozen=True)
class Proof:
    """What the comparison found, in logits over prompts and greedy new tokens.

    Attributes:
        prompts: How many were compared.
        same_tokens: How many of their greedy continuations are the same.
        difference: The largest between the baked model and the steered one.
        tolerance: The largest that is accepted.
        effect: The largest between the unsteered model and the steered one.
    """

    prompts: int
    same_tokens: int
    difference: float
    tolerance: float
    effect: float


@dataclass(frozen=True)
class SavedModel:
    """A baked checkpoint.

    Attributes:
        folder: Where it is.
        kind: "addition" or "ablation".
        changed: How many tensors changed.
        added: How many are new.
        proof: How close it is to the steered model.
        control_vector_layers: Those of the control vector that lies beside it; empty where there is none.
        warnings: What the one who uses it should know.
    """

    folder: Path
    kind: str
    changed: int
    added: int
    proof: Proof
    control_vector_layers: tuple[int, ...]
    warnings: tuple[str, ...]


def save_edited(
    session: Session, folder: str | os.PathLike[str], baking: Baking, prompts: Sequence[Prompt] = ()
) -> SavedModel:
    """Write the checkpoint, whole and proved on the prompts (or neutral ones), or nothing.

    Raises:
        BakingError: Weights cannot hold the plan, or the proof failed.
        ArgumentError: The folder is there already, and save_edited_model did not write it, or not all that is in it.
    """
    engine = engine_for_baking(session)
    model, writers = cast(Any, engine.module), engine.find_writers()
    kind = read_plan(baking.plan, writing_sites(writers))
    edits = edits_for(kind, engine, writers)
    target = session.workspace.resolve(folder)
    _refuse_strangers(target)
    source = _source_of(engine)
    if target == source:
        raise ArgumentError(f"{target} is the folder that the model was loaded from", valid="another folder")
    with session.workspace.new_folder(folder, replacing=_refuse_strangers) as part:
        if source is None:
            refuse_full_disk(part, sum(own.numel() * own.element_size() for own in model.parameters()))
            model.save_pretrained(part)
        else:
            copy_checkpoint(source, part)
        engine.tokenizer.save_pretrained(part)
        prefix = f"{model.base_model_prefix}."
        # Some are saved without the prefix of the model inside.
        if not any(name.startswith(prefix) for name in find_tensors(part)):
            edits = edits.renamed(lambda name: name.removeprefix(prefix))
        edit_checkpoint(part, edits)
        proof, warnings = _proved(engine, baking.plan, part, prompts or engine.neutral_prompts, edits)
        layers = _write_control_vector(kind, part)
        (part / CARD).write_text(card_of(engine.info.name, kind, baking.source, proof), encoding="utf-8")
    return SavedModel(
        folder=target,
        kind=type(kind).__name__.lower(),
        changed=len(edits.changed),
        added=len(edits.zeros) + len(edits.copies),
        proof=proof,
        control_vector_layers=layers,
        warnings=(*baking.warnings, *warnings),
    )


def _refuse_strangers(folder: Path) -> None:
    """Refuse to replace what is no edited checkpoint and nothing else."""
    if not os.path.lexists(folder):
        return
    problem = f"{folder} is there already"
    valid = "a new folder, or one that save_edited_model wrote"
    if folder.is_symlink():
        raise ArgumentError(f"{problem}, and is a link", valid=valid)
    try:
        strangers = read_undo_file(folder).strangers(folder)
    except SteeringError as error:
        raise ArgumentError(f"{problem}, and cannot be undone: {error}", valid=valid, fix=_ELSEWHERE) from error
    if strangers:
        raise ArgumentError(
            f"{problem}, and holds more than save_edited_model wrote: {', '.join(map(repr, strangers[:_MOST_NAMED]))}"
            + (f" and {len(strangers) - _MOST_NAMED} more" if len(strangers) > _MOST_NAMED else ""),
            valid=valid,
            fix=_ELSEWHERE,
        )


_ELSEWHERE, _MOST_NAMED = "Choose another folder, or move what is yours out of it; nothing was written.", 5


def model_folder(session: Session) -> Path | None:
    """Return the folder that the session's model was loaded from, if it was one with a safetensors checkpoint."""
    return _source_of(engine_for_baking(session))


def _source_of(engine: EditableWeights) -> Path | None:
    name = str(getattr(cast(Any, engine.module).config, "_name_or_path", ""))
    source = Path(name).absolute()
    return source if name and ((source / SINGLE).is_file() or (source / INDEX).is_file()) else None


def _proved(
    engine: EditableWeights, plan: Plan, folder: Path, prompts: Sequence[Prompt], edits: CheckpointEdits
) -> tuple[Proof, list[str]]:
    """Load the checkpoint as anybody would, and hold it against the steered model; return warnings, too."""
    device_map = getattr(engine.module, "hf_device_map", None)
    reloaded, tokenizer, _ = load_pretrained(str(folder), dtype=engine.info.dtype, device_map=device_map)
    if device_map is None:
        reloaded.to(engine.info.device)
    tensors = find_tensors(folder)
    dtypes = [getattr(torch, engine.info.dtype), *(FLOATS[tensors[name].dtype] for name in edits.changed)]
    # The same tokens for both, so that the weights are what is compared.
    baked = HuggingFaceEngine(reloaded, engine.tokenizer, template_options=engine.info.template_options)
    try:
        proof = prove(engine, plan, baked, prompts, max(dtypes, key=lambda dtype: torch.finfo(dtype).eps))
    finally:
        baked.detach()
    warnings: list[str] = []
    if proof.same_tokens < proof.prompts:
        other = proof.prompts - proof.same_tokens
        warnings.append(
            f"{other} of {proof.prompts} greedy continuations differ, where two tokens are about as likely."
        )
    texts = [prompt.text for prompt in prompts if isinstance(prompt, TextPrompt)]
    own = engine.tokenizer
    if any(own(text)["input_ids"] != tokenizer(text)["input_ids"] for text in texts):
        warnings.append("Saved and loaded again, the tokenizer reads texts differently: put your own into the folder.")
    return proof, warnings


def _write_control_vector(kind: Addition | Ablation, folder: Path) -> tuple[int, ...]:
    """Write what llama.cpp can add to the unedited model, where it can: at the output of layers from 1 on."""
    if isinstance(kind, Ablation) or any(s.component != "residual" or s.layer == 0 for s in kind.by_site):
        return ()
    vector = SteeringVector.from_directions({site.layer: added.float() for site, added in kind.by_site.items()})
    write_vector(vector, CONTROL_VECTOR, workspace=Workspace(folder))
    return vector.layers


def card_of(model_name: str, kind: Addition | Ablation, source: str, proof: Proof) -> str:
    """Return the card in Markdown; `source` names the vectors."""
    match kind:
        case Addition(by_site):
            what = f"A vector is added to every token at {', '.join(map(str, by_site))}, as biases."
        case Ablation():
            what = "One direction is projected out of everything that is written to the residual stream."
    return f"""---
library_name: transformers
tags: [steering, steer-tools]
---

# {Path(model_name).name}, edited

{what} From: {source}.

The edit is in the weights: `AutoModelForCausalLM.from_pretrained` needs nothing else. Compared with the model under
the same edit by hooks, on {proof.prompts} prompts:

- {proof.same_tokens} greedy continuations are the same;
- logits differ by at most {proof.difference:.3g} (accepted: {proof.tolerance:.3g});
- from the unedited model's they differ by up to {proof.effect:.3g}.

`{UNDO}` holds what was changed: `steer-tools undo FOLDER` gives every weight its own bits again.

{CARD_ENDING}"""


# Of the largest logit; in half precision the weights are rounded themselves.
_TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
_NEW_TOKENS = 16
# The logits of so many prompts are held at once.
_BATCH = 8


def prove(steered: Replay, plan: Plan, baked: Replay, prompts: Sequence[Prompt], dtype: torch.dtype) -> Proof:
    """Hold `baked` without a plan against `steered` under `plan`; `dtype` is the least exact one that is involved.

    Raises:
        BakingError: They differ by more than the tolerance, or by half of what steering does.
    """
    same, difference, effect, largest = 0, 0.0, 0.0, 0.0
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        rows, bare = [Row(prompt, plan) for prompt in batch], [Row(prompt) for prompt in batch]
        texts = steered.generate(rows, Sampling(_NEW_TOKENS))
        theirs = baked.generate(bare, Sampling(_NEW_TOKENS))
        same += sum((a.tokens, a.ended) == (b.tokens, b.ended) for a, b in zip(texts, theirs, strict=True))
        # One token more, so that the logits by which a text ended are compared, too.
        forced = [(*text.tokens, text.prompt_tokens[-1]) for text in texts]
        ours = steered.replay(rows, forced, use_cache=True, batched=True)
        difference = max(difference, _apart(ours, baked.replay(bare, forced, use_cache=True, batched=True)))
        effect = max(effect, _apart(ours, steered.replay(bare, forced, use_cache=True, batched=True)))
        largest = max(largest, *(float(logits.abs().max()) for logits in ours))
    proof = Proof(len(prompts), same, difference, _TOLERANCES[dtype] * largest, effect)
    if not (difference <= proof.tolerance and difference < effect / 2):
        raise BakingError(
            f"The logits of the baked model differ from the steered one's by up to {difference:.3g}; steering changes "
            f"them by up to {effect:.3g}",
            valid=f"at most {proof.tolerance:.3g}, and less than half of what steering does",
            fix="Nothing was saved. If the weights were changed after the model was loaded from its folder, save it to "
            "another folder and load that; in half precision, load it as float32.",
        )
    return proof


def _apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True))
