"""Chat templates of many shapes, written by hand after the token forms that models are known by, and a tokenizer.

The tokenizer is byte-level, with merges that reach over the border between a template's text and a message's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """A chat template with what it takes and what it writes.

    Attributes:
        source: The template.
        before: What stands right before an answer after one user message.
        after: What follows an answer.
        opens: What the start of a new answer ends with.
        has_system: Whether it takes a system message.
        has_turns: Whether two user messages may follow each other.
        cuts: Whether white space around a text is cut.
        in_parts: The roles whose contents it takes in parts only.
    """

    source: str
    before: str
    after: str
    opens: str
    has_system: bool = True
    has_turns: bool = True
    cuts: bool = False
    in_parts: tuple[str, ...] = ()


_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_PARTS_LOOP = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
_ALTERNATES = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user, assistant') }}{% endif %}"
)

SHAPES = {
    "chatml": Shape(_CHATML, "<|im_start|>assistant\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    "chatml_with_default_system": Shape(
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful house.<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "<|im_start|>assistant\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "llama3": Shape(
        "{% set loop_messages = messages %}{% for m in loop_messages %}"
        "{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
        "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        cuts=True,
    ),
    "llama31_with_date": Shape(
        "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] | trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{{- 'Today Date: ' + date_string + '\\n\\n' }}"
        "{{- system_message }}{{- '<|eot_id|>' }}{%- for m in messages %}"
        "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        cuts=True,
    ),
    "gemma": Shape(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}" + _ALTERNATES + "{% if m.role == 'assistant' %}{% set role = 'model' %}"
        "{% else %}{% set role = m.role %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "<start_of_turn>model\n",
        "<end_of_turn>\n",
        "<start_of_turn>model\n",
        has_system=False,
        has_turns=False,
        cuts=True,
    ),
    "mistral": Shape(
        "{{ bos_token }}{% for m in messages %}" + _ALTERNATES + "{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        " [/INST] ",
        "</s>",
        " [/INST]",
        has_system=False,
        has_turns=False,
    ),
    "mistral_with_system_last": Shape(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
        "{% set asked = turns | length - (1 if turns[-1].role == 'user' else 2) %}{% for m in turns %}"
        + _ALTERNATES
        + "{% if m.role == 'user' %}{{ '[INST] ' }}{% if system is defined and loop.index0 == asked %}"
        "{{ system + '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "[/INST] ",
        "</s>",
        "[/INST]",
        has_turns=False,
    ),
    "llama2_with_system_in_the_first_turn": Shape(
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
        "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% else %}"
        "{% set turns = messages %}{% set system = '' %}{% endif %}{% for m in turns %}" + _ALTERNATES + ""
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + "
        "' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}"
        "{% endfor %}",
        " [/INST] ",
        " </s>",
        " [/INST]",
        has_turns=False,
        cuts=True,
    ),
    "zephyr": Shape(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\\n' + m['content'] + eos_token }}"
        "{% elif m['role'] == 'system' %}{{ '<|system|>\\n' + m['content'] + eos_token }}"
        "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\\n' + m['content'] + eos_token }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}",
        "<|assistant|>\n",
        "</s>",
        "<|assistant|>",
    ),
    "qwen3": Shape(
        "{%- set ns = namespace(last=messages|length - 1, open=true) %}{%- for m in messages[::-1] %}"
        "{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.open and m.role == 'user' and "
        "not(m.content.startswith('<tool_response>')) %}{%- set ns.open = false %}{%- set ns.last = index %}"
        "{%- endif %}{%- endfor %}{%- for m in messages %}{%- set content = m.content %}"
        "{%- if m.role == 'user' or m.role == 'system' %}"
        "{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>' + '\\n' }}{%- elif m.role == 'assistant' %}"
        "{%- set thought = '' %}{%- if '</think>' in content %}"
        "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
        "{%- if loop.index0 > ns.last and (loop.last or thought) %}{{- '<|im_start|>assistant\\n<think>\\n' + "
        "thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{%- else %}"
        "{{- '<|im_start|>assistant\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}{%- elif m.role == 'tool' %}"
        "{{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
        "{%- endif %}{%- endif %}",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "r1": Shape(
        "{% set ns = namespace(system='') %}{%- for m in messages %}{%- if m['role'] == 'system' %}"
        "{% set ns.system = m['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system}}{%- for m in messages %}"
        "{%- if m['role'] == 'user' %}{{'<|User|>' + m['content']}}{%- endif %}{%- if m['role'] == 'assistant' %}"
        "{% set content = m['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}"
        "{% endif %}{{'<|Assistant|>' + content + '</s>'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}",
        "<|Assistant|>",
        "</s>",
        "<|Assistant|><think>\n",
    ),
    "harmony": Shape(
        "{{- '<|start|>system<|message|>You are a large model.\\nReasoning: ' + (reasoning_effort or 'medium') + "
        "'<|end|>' }}{%- if messages[0].role == 'developer' or messages[0].role == 'system' %}"
        "{{- '<|start|>developer<|message|># Instructions\\n\\n' + messages[0].content + '\\n\\n<|end|>' }}"
        "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}{%- for m in turns %}"
        "{%- if m.role == 'assistant' %}{%- if '<|channel|>' in m.content %}"
        "{{- raise_exception('Channels belong in fields of their own.') }}{%- endif %}"
        "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{%- elif m.role == 'user' %}"
        "{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}",
        "<|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
        "<|start|>assistant",
    ),
    "phi3": Shape(
        "{% for m in messages %}{{'<|' + m['role'] + '|>' + '\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|assistant|>\n",
        "<|end|>\n</s>",
        "<|assistant|>\n",
    ),
    "parts_only": Shape(
        "{% for m in messages %}{{ m.role | capitalize }}: " + _PARTS_LOOP + "<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        "Assistant: ",
        "<|end|>\n",
        "Assistant:",
        in_parts=("system", "user", "assistant"),
    ),
    "parts_for_all_but_the_system": Shape(
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'system' %}{{ m.content.strip() }}{% else %}"
        + _PARTS_LOOP
        + "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "<|assistant|>",
        "<|end|>",
        "<|assistant|>",
        in_parts=("user", "assistant"),
    ),
    "parts_or_text": Shape(
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.content is string %}{{ m.content }}"
        "{% else %}" + _PARTS_LOOP + "{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "<|assistant|>",
        "<|end|>",
        "<|assistant|>",
    ),
    "tools": Shape(
        "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0]['role'] == 'system' %}"
        "{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}{{- '# Tools\\n' }}{%- for tool in tools %}"
        "{{- tool | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- elif messages[0]['role'] == 'system' %}"
        "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{%- endif %}"
        "{%- for m in messages %}{%- if m.role == 'user' or (m.role == 'system' and not loop.first) or "
        "m.role == 'assistant' and not m.tool_calls %}"
        "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{%- elif m.role == 'tool' %}"
        "{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
        "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
        "<|im_start|>assistant\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "assistant_mask": Shape(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}{% generation %}"
        "{{ m.content + '<|end|>' }}{% endgeneration %}{% elif m.role in ['user', 'system'] %}"
        "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% else %}{% continue %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "<|assistant|>",
        "<|end|>",
        "<|assistant|>",
    ),
    "vicuna": Shape(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}{% elif m.role == 'user' %}"
        "{{ 'USER: ' + m.content + '\\n' }}{% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + '</s>\\n' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "ASSISTANT: ",
        "</s>\n",
        "ASSISTANT:",
    ),
}

_TEXTS = [
    "The house is red. Is the house red? Yes. No, it is not.\n\n Yes.\n No.\n user assistant model system",
    "USER: Why is the sky blue?\nASSISTANT: The sky is blue.\n Assistant: Yes. Assistant: No. [INST] [/INST]",
] * 50


@cache
def _vocabulary() -> str:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(_TEXTS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return core.to_str()


def make_chat_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template; what looks like a control token in it is a special token."""
    special = dict.fromkeys(re.findall(r"<\|?[a-zA-Z_]+\|?>", source))
    names = ("system", "user", "assistant") if "'<|' + m" in source else ()
    special |= dict.fromkeys(f"<|{name}|>" for name in names)
    ours = [token for token in special if token not in ("<s>", "</s>") and "think" not in token and "tool" not in token]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_vocabulary()),
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=ours,
    )
    tokenizer.chat_template = source
    return tokenizer


def text_of(tokenizer: Any, ids: Any) -> str:
    """The text of tokens, special ones included, byte for byte."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
