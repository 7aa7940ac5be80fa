"""How other libraries call what we have, for the names of arguments, the words in them and the names of attributes.

Data only: from the field's words to ours. It must not know how they are used.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

# Names of arguments elsewhere → ours, of which a function has at most one that is free.
Synonyms: TypeAlias = dict[str, tuple[str, ...]]

_STRENGTH = ("strength", "strengths")
_LAYER = ("layer", "layers", "vector_layer")
_BEHAVIOR = ("behavior_name", "behavior", "dataset")
_VECTOR = ("vector_path", "vector", "vector_paths")
_TOKENS = ("positions", "pooling", "position")
_FOLDER = ("save_folder", "save_path")
_POSITIVE, _NEGATIVE = ("positive_prompts", "positive"), ("negative_prompts", "negative")

SYNONYMS: Synonyms = {
    **dict.fromkeys(("multiplier", "multipliers", "coeff", "coeffs", "coefficient", "coefficients"), _STRENGTH),
    **dict.fromkeys(("alpha", "scale", "scaling_factor", "steering_strength", "strength", "strengths"), _STRENGTH),
    **dict.fromkeys(("layer", "layers", "layer_idx", "layer_index", "layer_indices", "layer_ids"), _LAYER),
    **dict.fromkeys(("extraction_layer", "injection_layer"), _LAYER),
    **dict.fromkeys(("behavior", "behaviour", "behavior_name", "trait", "dataset"), _BEHAVIOR),
    **dict.fromkeys(("vector", "steering_vector", "control_vector", "vec", "direction"), _VECTOR),
    **dict.fromkeys(("vectors", "paths"), ("vector_paths", "vector_path", "vector")),
    **dict.fromkeys(("position", "positions", "token_position", "token_positions", "injection_mode"), _TOKENS),
    **dict.fromkeys(("token", "token_index", "read_token_index", "pooling"), ("pooling", "positions")),
    **dict.fromkeys(("output_dir", "output_path", "save_dir", "save_path", "save_folder", "folder", "path"), _FOLDER),
    **dict.fromkeys(("positive_examples", "positives", "positive_texts", "positive"), _POSITIVE),
    **dict.fromkeys(("negative_examples", "negatives", "negative_texts", "negative"), _NEGATIVE),
    **dict.fromkeys(("prompt", "text", "texts", "inputs", "test_prompts"), ("prompts",)),
    **dict.fromkeys(("clean", "clean_prompt", "source"), ("source_prompt",)),
    **dict.fromkeys(("corrupted", "corrupt", "corrupted_prompt", "corrupt_prompt", "target_text"), ("target_prompt",)),
    **dict.fromkeys(("patching_metric", "metric_fn"), ("metric",)),
    **dict.fromkeys(("top_k", "topk", "k"), ("top",)),
    **dict.fromkeys(("max_tokens", "n_tokens", "num_tokens"), ("max_new_tokens",)),
    **dict.fromkeys(("mode", "operation", "edit"), ("intervention",)),
    **dict.fromkeys(("ablation", "ablation_type"), ("method",)),
    **dict.fromkeys(("n_random", "n_controls", "num_controls"), ("controls",)),
    **dict.fromkeys(("model_name", "model_id", "model_path", "pretrained_model_name_or_path"), ("name_or_path",)),
    "name": ("name_or_path",),
    "layer_type": ("component",),
    "torch_dtype": ("dtype",),
    "device": ("device_map",),
    "steering_id": ("steering_id",),
    "handle": ("steering_id",),
    "seed": ("seed",),
    "random_seed": ("seed",),
    "layer": (*_LAYER, "layer_if_unknown"),
    "scorer": ("scorer",),
}

# Words elsewhere → ours, where ours is among the words that an argument may have.
WORDS: dict[str, str] = {
    "attn": "attention",
    "self_attn": "attention",
    "attn_out": "attention",
    "mlp_out": "mlp",
    "ffn": "mlp",
    "resid": "residual",
    "resid_post": "residual",
    "residual_stream": "residual",
    "hidden_states": "residual",
    "decoder_block": "residual",
    "embed": "embedding",
    "mean_diff": "mean_difference",
    "diff_of_means": "mean_difference",
    "difference_of_means": "mean_difference",
    "caa": "paired_mean_difference",
    "pca_diff": "pca",
    "pca_center": "pca",
    "repe": "pca",
    "probe": "logistic",
    "logistic_regression": "logistic",
    "actadd": "act_add",
    "ablate": "project_out",
    "ablation": "project_out",
    "orthogonalize": "project_out",
    "project": "project_out",
    "addition": "add",
    "last_token": "last",
    "first_token": "first",
    "mean_pool": "mean",
    "fp32": "float32",
    "float": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}

# Arguments elsewhere that ask for what is so here anyway.
NEEDLESS = frozenset(
    {
        "batch_size",
        "verbose",
        "show_progress",
        "progress",
        "num_workers",
        "use_cache",
        "device",
        "return_tensors",
        "pad_token_id",
        "model_type",
        "name",
    }
)

_OWN_GENERATE = "your own model.generate(**inputs, ...) is steered by what is applied and takes it"
_AROUND = "write `with steering(vector, layer, strength):` around the call"
_DIVIDED = "the questions are divided by themselves: one part chooses, the other judges"
# What people ask for by an argument that none of ours is, → how it is had.
INSTEAD: dict[str, str] = {
    "repetition_penalty": _OWN_GENERATE,
    "top_p": _OWN_GENERATE,
    "stop": _OWN_GENERATE,
    "max_length": "max_new_tokens counts new tokens alone; max_length would count the prompt's, too",
    "metric": "sweep_steering, find_best_layer and steering_experiment take metric=, patch_activations one of logits",
    "vector": f"{_AROUND}, or compare_generations(prompts, vector)",
    "strength": f"apply_steering_vector(vector, layer, strength) first, or {_AROUND}",
    "dtype": "the model's own dtype is used; load_model takes dtype",
    "hooks": "steering, recording and apply_steering_vector set the hooks",
    "val_positives": _DIVIDED,
    "val_negatives": _DIVIDED,
}

_APPLIED_FIRST = (
    "what is applied is saved: apply_steering_vector(vector, layer, strength, positions='all') first, then "
    "save_edited_model(folder)"
)
# The same for one function.
INSTEAD_IN: dict[str, dict[str, str]] = {
    "save_edited_model": {"strength": _APPLIED_FIRST},
    "steering_experiment": {
        "n_samples": "it asks all questions of the behaviour; find_best_layer is quicker",
        "vector": "it makes the vector itself; of a saved one, sweep_steering(vector, behavior) measures the effect",
    },
    "ablate_component": {
        "head": "each head is taken out by itself, and the result has each: component='head', layers=[10]",
    },
}

# How a vector acts that a function is given to run under, where nothing else is said: weights hold no positions.
ACTING: dict[str, dict[str, Any]] = {"save_edited_model": {"positions": "all"}}

# Entries of a function's result by the names that are looked for → how ours are read.
ENTRIES: dict[str, dict[object, Callable[[Any], Any]]] = {
    "find_best_layer": {
        "layer": lambda result: result["best_layer"],
        "strength": lambda result: result["best_strength"],
    },
    "analyze_steering_vector": {
        "top_tokens": lambda result: [*(result["lens"] or result["observed"])["boosted"].items()],
        "cosine_similarity": lambda result: (
            next(iter(result["saved_cosines"].values()))
            if len(result["saved_cosines"]) == 1
            else result["saved_cosines"]
        ),
    },
}

# Attributes of vectors elsewhere → ours.
ATTRIBUTES: dict[str, str] = {
    "weight": "vector.vector, or vector[layer]",
    "data": "vector.vector, or vector[layer]",
    "layer_activations": "vector.directions",
    "import_gguf": "SteeringVector.load('name.gguf')",
    "train": "create_steering_vector(positive_prompts, negative_prompts, layer, save_path)",
    "to": "vectors are float32 on the CPU, and are added in the model's own dtype on its device",
    "patch_activations": "apply_steering_vector(vector, layer, strength)",
    "items": "vector.directions.items()",
    "keys": "vector.layers",
    "values": "vector.directions.values()",
    "shape": "vector.width and vector.layers",
    "name": "vector.info",
}
