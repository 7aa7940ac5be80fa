"""A tiny random model for every class that transformers loads as a causal language model, from its config alone.

`build` shrinks every size that a config class has by name (SIZES); EXTRA says what a family wants beyond that.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS, TOWER_LAYERS, WIDTH, VOCABULARY = 4, 2, 32, 128
# Wide enough that every layer counts. Blocks that normalise after the sum (BERT, BART) are given less: strong layers
# make all their tokens alike, and the model says one word for ever.
SPREAD, POST_NORM_SPREAD = 0.25, 0.15


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


DEPTHS = _each("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth num_blocks", LAYERS)
DEPTHS |= _each("num_encoder_layers num_decoder_layers", LAYERS)
SPREADS = _each("initializer_range init_std embed_init_std", SPREAD)
# What every config gets where its class has a field of that name.
SIZES: dict[str, Any] = {
    **_each("vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size", VOCABULARY),
    **_each("hidden_size n_embd d_model emb_dim embedding_size input_embedding_size output_embedding_size", WIDTH),
    **_each("word_embed_proj_dim output_proj_dims mm_embed_dim adapter_in_dim adapter_out_dim", WIDTH),
    **_each("adapter_input_size downsample_hidden_size ext_pw_out_channel depthwise_separable_out_channel", WIDTH),
    **_each("nemo_conv_channels input_size num_mel_bins pronunciation_embed_dim shape_embed_dim", WIDTH),
    **_each("audio_embed_dim image_size crop_size", WIDTH),
    **_each("num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads", 4),
    **_each("num_encoder_attention_heads num_decoder_attention_heads attention_heads swa_num_attention_heads", 4),
    **_each("index_n_heads mamba_n_heads mamba_num_heads linear_num_heads linear_num_value_heads", 4),
    **_each("num_key_value_heads swa_num_key_value_heads linear_num_key_heads", 2),
    **_each("head_dim swa_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim index_head_dim rotary_dim", 8),
    **_each("linear_head_dim linear_key_head_dim linear_value_head_dim kv_channels attention_head_size dim_head", 8),
    **_each("intermediate_size dense_intermediate_size intermediate_size_mlp ffn_hidden_size ffn_dim dim_ff dff", 64),
    **_each("encoder_ffn_dim decoder_ffn_dim d_inner feed_forward_size mlp_dim", 64),
    **_each("moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size", 16),
    **_each("expert_ffn_hidden_size moe_shared_expert_intermediate_size shared_experts_intermediate_size", 16),
    **_each("q_lora_rank kv_lora_rank o_lora_rank mamba_d_head mamba_head_dim", 16),
    **_each("num_experts num_local_experts n_routed_experts moe_num_experts", 4),
    **_each("num_experts_per_tok moe_topk moe_k moe_top_k top_k_experts", 2),
    **_each("n_group topk_group n_shared_experts first_k_dense_replace num_dense_layers n_groups", 1),
    **_each("state_size mamba_d_state ssm_state_size hc_lowrank router_hidden_size patch_size feature_size", 8),
    **_each("sliding_window window_size attention_window_size index_topk", 8),
    **_each("index_topk_blocks mm_tokens_per_image laurel_rank gated_norm_rank", 4),
    **_each("max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions", 96),
    **_each("max_source_positions position_embedding_size mm_posemb_size bias_max_distance", 96),
    **_each("pad_token_id pad_index", 0),
    **_each("bos_token_id bos_index", 1),
    **_each("eos_token_id eos_index", 2),
    **_each("forced_eos_token_id begin_suppress_tokens", None),
    **_each("logit_scale logits_mup_width_multiplier", 1.0),
    "is_decoder": True,
    # With tied embeddings an untrained model repeats the token it was last given.
    **_each("is_encoder_decoder add_cross_attention tie_word_embeddings", False),
    **SPREADS,
}

SLIDING = ["sliding_attention", "full_attention"] * 2
LINEAR = ["linear_attention", "full_attention"] * 2
HYBRID = ["linear_attention", "hybrid"] * 2
CONVOLUTION = ["conv", "full_attention"] * 2
PER_LAYER_INPUT = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2, "layer_types": SLIDING}
DOTS3 = {"head_dim": 16, "layer_types": ["indexed_attention", "sliding_attention"] * 2} | {
    **_each("swa_num_attention_heads swa_num_key_value_heads", 4),
    **_each("swa_head_dim swa_q_lora_rank swa_kv_lora_rank", 16),
    **_each("swa_qk_nope_head_dim swa_v_head_dim", 8),
}
QWEN4 = {"ple_layer_ids": [1], "ngram_vocab_size_base": 50, "indexer_compress_ratio": 2} | {
    **_each("indexer_head_dim indexer_budget", 8),
    **_each("indexer_kv_heads split_ngram_parts", 1),
    "indexer_n_heads": 4,
}

# What a family wants beyond its sizes; a family that is not here wants nothing.
EXTRA: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {
        "num_hidden_layers": LAYERS,
        "encoder_hash_byte_group_vocab": VOCABULARY,
        "encoder_config": {"hidden_size_global": WIDTH},
        "decoder_config": {"hidden_size_global": WIDTH},
    },
    "cohere_compass_text": {
        "layer_types": SLIDING,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            "full_attention": None,
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "dots3_note": {"text_config": DOTS3, "vision_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "dots3_note_text": DOTS3,
    "falcon_h1": {"mamba_d_ssm": 64},
    # Any other size than 8 will do: with that one's draws the model ends every text at once.
    "fuyu": {"patch_size": 4},
    # As deep as its text decoder on purpose, here and in git: whoever looks for the blocks must not take the tower's.
    "gemma3": {"text_config": {"layer_types": SLIDING}, "vision_config": {"num_hidden_layers": LAYERS}},
    "gemma3_text": {"layer_types": SLIDING},
    "gemma3n_text": PER_LAYER_INPUT,
    "gemma4": {"text_config": PER_LAYER_INPUT | {"global_head_dim": 8}, "vision_config": {}, "audio_config": {}},
    "gemma4_text": {"global_head_dim": 16, "hidden_size_per_layer_input": 8, "enable_moe_block": True},
    "gemma4_unified": {"text_config": {"global_head_dim": 8}, "vision_config": {}, "audio_config": {}},
    "gemma4_unified_text": {"global_head_dim": 8},
    "git": {"vision_config": {"num_hidden_layers": LAYERS}},
    "got_ocr2": {"vision_config": {"window_size": 2, "global_attn_indexes": [1], "output_channels": 16}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": LINEAR},
    "inkling2_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2, "rel_extent": 32},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2, "rel_extent": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": LINEAR},
    "kolibri1": {"layer_types": SLIDING},
    "laguna": {"layer_types": SLIDING},
    "lfm2": {"layer_types": CONVOLUTION},
    "lfm2_moe": {"layer_types": CONVOLUTION},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"head_dim": 16},
    "mellum": {"layer_types": SLIDING},
    "minicpm3": {"scale_emb": 1, "dim_model_base": WIDTH},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2, "index_block_size": 4},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"w_init_variance_scale": 1.0},
    "reformer": {"attn_layers": ["local", "lsh"] * 2, "axial_pos_embds": False, "hash_seed": 0},
    "xlm": {"causal": True, "mask_token_id": 3, "init_std": 0.1, "embed_init_std": 0.1},
    # Not causal: its one-way attention ("uni") fails on more than one row.
    "xlnet": {"initializer_range": POST_NORM_SPREAD},
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX", "initializer_range": 0.1},
    "zamba": {"layers_block_type": HYBRID},
    "zamba2": {"layers_block_type": HYBRID},
    "zaya": {"layer_types": ["hybrid_sliding", "hybrid"] * 2, "num_experts_per_tok": 1},
}


def model_types() -> list[str]:
    """Every model type that `AutoModelForCausalLM` knows, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _shrink(config_class: type[PreTrainedConfig], layers: int, extra: dict[str, Any]) -> PreTrainedConfig:
    """A small config of this class and of its parts; `extra` has the last word."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    values = SIZES | dict.fromkeys(DEPTHS, layers)
    if "is_decoder" in fields:
        values |= dict.fromkeys(SPREADS, POST_NORM_SPREAD)
    if "kv_lora_rank" in fields:
        # Latent attention unpacks keys and values of its own for every head.
        values["num_key_value_heads"] = values["num_attention_heads"]
    values = {name: value for name, value in values.items() if name in fields} | extra
    for name, part_class in config_class.sub_configs.items():
        part = getattr(config_class(), name)
        if part is not None or name in extra:
            depth = layers if name in {"text_config", "decoder_config"} else TOWER_LAYERS
            values[name] = _shrink(part_class if part is None else type(part), depth, extra.get(name, {}))
    return config_class(**values)


def build(model_type: str, seed: int = 0) -> nn.Module:
    """The tiny model of this type in float32, ready to run, the same for the same seed."""
    config = _shrink(CONFIG_MAPPING[model_type], LAYERS, EXTRA.get(model_type, {}))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        # Some classes start a matrix at zero (xlstm its gates, afmoe its router) or near it whatever the config says
        # (openai-gpt), so that a part of a layer, or a layer, would not count.
        if parameter.dim() >= 2 and parameter.abs().mean() < 0.05:
            nn.init.normal_(parameter, std=POST_NORM_SPREAD)
    return model
