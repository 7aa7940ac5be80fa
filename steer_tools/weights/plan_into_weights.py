"""A plan of one of the two kinds and the model it acts on → the edits of the model's checkpoint.

It must not know folders or files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from steer_tools.core.site import Site
from steer_tools.engines.facets import EditableWeights, OutputParameter, Writer
from steer_tools.engines.huggingface.checkpoint import find_bias_flag, names_on_disk
from steer_tools.errors import BakingError
from steer_tools.weights.bakeable_plans import Ablation, Addition, Bakeable
from steer_tools.weights.tensor_edits import CheckpointEdits, Increased, ProjectedOut


def edits_for(kind: Bakeable, engine: EditableWeights, writers: Sequence[Writer]) -> CheckpointEdits:
    """Return the edits that make the unsteered model do what the plan does.

    Raises:
        BakingError: The model has no place for it in its weights.
    """
    match kind:
        case Addition(by_site):
            return _added(by_site, engine.module, writers)
        case Ablation(along):
            return _ablated(along, engine, writers)


def _added(by_site: Mapping[Site, Tensor], model: nn.Module, writers: Sequence[Writer]) -> CheckpointEdits:
    """Put each addition into the bias of what writes last there."""
    by_bias: dict[str, Tensor] = {}
    for site, added in by_site.items():
        writer = _last_writer(site, writers)
        assert writer.bias is not None
        by = added / writer.scale
        by_bias[writer.bias] = by_bias[writer.bias] + by if writer.bias in by_bias else by
    missing = [w.bias for w in writers if w.bias in by_bias and not w.has_bias]
    flag = find_bias_flag(model, [name for name in missing if name]) if missing else None
    if missing and flag is None:
        raise BakingError(
            f"{type(model).__name__} has no bias at {missing[0]}, and its config has no entry that gives it one",
            valid="models whose blocks end in a layer with a bias, such as GPT-2, or whose config has one, such as "
            "Llama's mlp_bias",
            fix="Keep the vector beside the model; for llama.cpp, save it as .gguf.",
        )
    biases = flag.biases if flag else {}
    return CheckpointEdits(
        changed={_only_name(model, name, by.shape): Increased(by) for name, by in by_bias.items()},
        zeros={_only_name(model, name, shape): shape for name, shape in biases.items()},
        config={flag.name: True} if flag else {},
    )


def _last_writer(site: Site, writers: Sequence[Writer]) -> Writer:
    """Return the linear module whose output is the last that is added to the stream up to a site."""
    at_layer = {w.site.component: w for w in writers if w.site.layer == site.layer and w.site.component != "embedding"}
    wanted = ("mlp", "attention") if site.component == "residual" else (site.component,)
    found = next((at_layer[component] for component in wanted if component in at_layer), None)
    if found is None or found.bias is None:
        made = f"what is written last there comes from {found.kind}" if found else "nothing is known to write there"
        raise BakingError(
            f"What is added at {site} has no place in a bias: {made}",
            valid="layers whose last addition to the residual stream is a linear layer's",
            fix="Keep the vector beside the model; for llama.cpp, save it as .gguf.",
        )
    return found


def _ablated(along: Tensor, engine: EditableWeights, writers: Sequence[Writer]) -> CheckpointEdits:
    """Project the direction out of everything that writes to the stream, with the unembedding left as it is."""
    unknown = [f"{writer.kind} at {writer.site}" for writer in writers if not writer.parameters]
    if not any(writer.site.component == "embedding" for writer in writers):
        unknown.append("what the first block is given")
    told = {writer.site.layer for writer in writers if writer.site.component != "embedding"}
    unknown += [f"what block {layer} adds" for layer in range(engine.info.layers) if layer not in told]
    if unknown:
        raise BakingError(
            f"The direction cannot be projected out of {unknown[0]} by changing weights: it is not known to be a sum "
            "of what linear layers or embeddings give",
            valid="models whose embeddings, attentions and MLPs write to the residual stream with no norm in between",
            fix="Apply the vector with intervention='project_out' instead.",
        )
    model = engine.module
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    named = {
        name: axis
        for writer in writers
        for parameter in writer.parameters
        for name, axis in names_on_disk(model, parameter, shapes[parameter.name]).items()
    }
    copies = _untied(model)
    return CheckpointEdits(
        changed={name: ProjectedOut(axis, along) for name, axis in named.items()},
        copies=copies,
        config={"tie_word_embeddings": False} if copies else {},
    )


def _untied(model: nn.Module) -> dict[str, str]:
    """Return unembedding → embedding, by their names on disk, where one tensor is both."""
    embedding, unembedding = cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings()
    config = cast(Any, model).config
    # Offloaded weights are stand-ins, of which each module has its own.
    says_tied = any(part.tie_word_embeddings for part in (config, config.get_text_config(decoder=True)))
    if unembedding is None or not (
        unembedding.weight is embedding.weight or (unembedding.weight.is_meta and says_tied)
    ):
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    own, source = (
        _only_name(model, f"{names[id(module)]}.weight", embedding.weight.shape) for module in (unembedding, embedding)
    )
    return {own: source}


def _only_name(model: nn.Module, name: str, shape: Sequence[int]) -> str:
    """Return the name on disk of a parameter that is one tensor there."""
    stored = list(names_on_disk(model, OutputParameter(name, 0), tuple(shape)))
    if len(stored) != 1:
        raise BakingError(f"{name} is stored as {len(stored)} tensors", valid="one")
    return stored[0]
