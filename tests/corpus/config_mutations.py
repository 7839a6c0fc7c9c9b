"""Alterations of adapter_config.json."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.corpus.case import Expectation, Mutation

from headstart.testing.oracles.stored import config_of, config_path, write_config

__all__ = ["CONFIG_MUTATIONS"]

Made = tuple[str, Expectation] | None

SLOW = ("([a-z_.0-9]+)+!", "(.*.*)*!", "(a|a|[a-z._0-9])*!", "(.*)*(.*)*(.*)*(.*)*!", ".*.*.*.*.*.*.*.*.*.*.*.*!")
"""Regular expressions that take longer than the universe lasts."""

VALUES: tuple[Any, ...] = (None, 0, -1, 1, 2, 1.5, 10**30, 1e308, True, False, "", "8", [], {}, ["q"], {"a": 1}, [None])
NAMES: tuple[Any, ...] = (
    None, "all-linear", [], ["q_proj"], ["nothing"], ".*", "(", "[", "*", ".*(q|v|q_proj|v_proj|c_attn)", [["q"]], 7,
    {"q": 1}, ["q", 7], "", "(" * 9000 + ")" * 9000, "q{99999999999999999999}", *SLOW,
)  # fmt: skip
FIELDS: dict[str, tuple[Any, ...]] = {
    "r": VALUES,
    "lora_alpha": (*VALUES, 3, 0.1, 7.25),
    "alpha_pattern": ({"q_proj": 3}, {".*": 5}, {"(": 5}, {"q_proj": "3"}, [1], {SLOW[0]: 3}, {"v": 1, "q": 2}),
    "rank_pattern": ({"q_proj": 2}, {".*": 3}, {"(": 3}, {"v_proj": None}, {SLOW[1]: 3}, {"q|v|q_proj": 3}),
    "use_rslora": (True, 1, "yes", None),
    "use_dora": (True, False, None),
    "lora_bias": (True, False),
    "bias": ("all", "lora_only", "none", "some", None, True),
    "target_modules": NAMES,
    "feedforward_modules": NAMES,
    "layers_to_transform": ([0], [1], 0, [0, 1], [7], "0", [-1], [True], {"a": 1}),
    "layers_pattern": ("layers", ["layers"], "(", "h", ["block", "h"], 7),
    "modules_to_save": (["lm_head"], "lm_head", ["nothing"]),
    "peft_type": (
        "LORA",
        "IA3",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
        "BITFIT",
        "ATTENTION_PREFIX",
        "LOHA",
        "P_TUNING",
        "",
        7,
        None,
        ["LORA"],
    ),
    "task_type": ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "QUESTION_ANS", None, "", 7, ["CAUSAL_LM"]),
    "init_lora_weights": ("pissa", "olora", "gaussian", False, "loftq", "pissa_niter_4", 7, None),
    "num_virtual_tokens": VALUES,
    "num_layers": (
        *VALUES,
        {"encoder": 2},
        {"decoder": 2},
        {"encoder": 1, "decoder": 2},
        {"encoder": True},
        {"head": 2},
        {"decoder": 2, "encoder": 2},
        {"encoder": 2, "decoder": 2, "cross_attention": 2},
    ),
    "relative_positions": ("text", "adapterhub", None, "other", ["text"], 7),
    "embedding_dim": VALUES,
    "num_attention_heads": VALUES,
    "num_transformer_submodules": VALUES,
    "token_dim": (*VALUES, 8, 16, 64),
    "prefix_projection": (True, False, 1),
    "encoder_hidden_size": VALUES,
    "fan_in_fan_out": (True, False),
    "target_parameters": (["x"],),
    "layer_replication": ([[0, 2]],),
    "trainable_token_indices": ([1],),
    "version": ("adapters.1.0.0", "adapters.0.2.1", "adapters.1.1.0", "0.1", None, 1.3, "adapters.x"),
    "name": ("", "other", None, "../m", "m.*", 7),
    "model_type": ("llama", "t5", "gpt2", "bert", "roberta", "mistral", "mt5", "xlm-roberta", "opt", None, ["t5"]),
    "hidden_size": VALUES,
    "delta_type": ("lora", "adapter", "bitfit", "prefix", "soft_prompt", "", None, 7, ["lora"]),
    "lora_r": VALUES,
    "bottleneck_dim": (*VALUES, 8),
    "non_linearity": ("relu", "gelu", "gelu_new", "gelu_orig", "swish", "tanh", "mish", None, 7),
    "modified_modules": (
        *NAMES,
        ["attn@"],
        ["attn@.q@"],
        ["attn@.k@", "attn@.v@"],
        ["ff@"],
        ["ff@.w2@"],
        ["[r](.*)q"],
        ["query"],
        ["attention"],
        ["layer.0"],
        ["attn@.q@", "attn@.q@"],
        ["attn@.q@", "nothing"],
    ),
    "common_structure": (True, False, None, 1, "yes"),
    "exclude_modules": (*NAMES, ["lm_head"]),
    "unfrozen_modules": (None, [], ["deltas"], ["deltas", "classifier"], ["classifier"], ["layer_norm"], "deltas", 7),
    "backbone_class": (
        "BertModel",
        "BertForMaskedLM",
        "RobertaModel",
        "T5Model",
        "GPT2Model",
        "LlamaModel",
        "OPTForCausalLM",
        "",
        None,
        7,
        ["BertModel"],
    ),
    "opendelta_version": ("0.3.2", "0.2.0", "0.30", "1.0", None, 0.3, ""),
    "config": (None, {}, [], "pfeiffer", {"architecture": "reft"}),
}
"""By field: values that stand there in some other module, or in none."""

METHOD: dict[str, tuple[Any, ...]] = {
    "alpha": (3, 0, -1, "8", None, 1e308, 0.5),
    "r": VALUES,
    "attn_matrices": (["q"], ["q", "k", "v"], [], "q", None, ["x"], [["q"]]),
    "selfattn_lora": (True, False, None),
    "intermediate_lora": (True, False),
    "output_lora": (True, False),
    "composition_mode": ("add", "scale", None),
    "architecture": ("lora", "prefix_tuning", None, "reft", 7, ["lora"]),
    "use_gating": (True,),
    "leave_out": ([0], [1], [0, 1, 2, 3], "1", [True], {"a": 1}, [99], 1),
    "reduction_factor": (
        2,
        4,
        8,
        16,
        0,
        -1,
        1e-300,
        1e300,
        "8",
        None,
        {"1": 4, "default": 8},
        {"default": 8},
        {"0": 8, "1": 8},
        {"0": 8, "1": 8, "2": 4},
        {"default": 8, "3": 4},
        {},
    ),
    "non_linearity": ("relu", "gelu", "gelu_new", "tanh", "SWISH", "leakyrelu", "mish", None, 7),
    "original_ln_before": (True, False),
    "original_ln_after": (True, False),
    "residual_before_ln": (True, False, "post_add"),
    "is_parallel": (True, False),
    "scaling": (2.0, 0, -1.5, "learned", "2", None, 1e308, True),
    "mh_adapter": (True, False),
    "output_adapter": (True, False),
    "cross_adapter": (True, False),
    "biases": (True, False, None),
    "ln_before": (True,),
    "ln_after": (True,),
    "inv_adapter": ("nice",),
    "phm_layer": (True,),
    "flat": (True, False, None, 1),
    "encoder_prefix": (True, False, None, "yes"),
    "cross_prefix": (True, False, None, 1),
    "prefix_length": VALUES,
    "bottleneck_size": VALUES,
}
"""The same for the fields of AdapterHub's methods."""

HARMLESS: dict[str, tuple[Any, ...]] = {
    "base_model_name_or_path": ("somebody/else", "../../x", None),
    "inference_mode": (False, True),
    "peft_version": ("0.1.0", "99", None),
    "revision": ("main", None),
    "lora_dropout": (0.0, 0.3),
    "model_name": ("somebody/else", ""),
    "model_class": ("Other",),
    "backbone_checkpoint_name": ("somebody/else", "", None),
    "backbone_hash": ("0", None),
    "transformers_version": ("5.0", None),
}


def _field(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    field = rng.choice(sorted(config.keys() & FIELDS.keys()))
    value = rng.choice([value for value in FIELDS[field] if not _same(value, config[field])])
    write_config(folder, config | {field: value})
    return f"'{field}' from {str(config[field])[:40]} to {str(value)[:40]!r}", "oracle"


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)


def _method_field(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    if not isinstance(config.get("config"), dict):
        return None
    method = config["config"]
    field = rng.choice(sorted(method.keys() & METHOD.keys()))
    value = rng.choice([value for value in METHOD[field] if not _same(value, method[field])])
    write_config(folder, config | {"config": method | {field: value}})
    return f"'{field}' from {str(method[field])[:40]} to {str(value)[:40]!r}", "oracle"


def _new_field(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    field, value = rng.choice(("use_xlora", "rotation", "lora_gamma", "layer_scale")), rng.choice((True, 3, "x", [1]))
    if isinstance(config.get("config"), dict):
        config["config"] |= {field: value}
    write_config(folder, config if "config" in config else config | {field: value})
    return f"unknown field '{field}' is {value!r}", "refused"


def _unset_field(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    empty: tuple[Any, ...] = (None, False, 0, "", [])
    field, value = rng.choice(("use_xlora", "rotation")), rng.choice(empty)
    if isinstance(config.get("config"), dict):
        config["config"] |= {field: value}
    write_config(folder, config if "config" in config else config | {field: value})
    return f"unknown field '{field}' is {value!r}", "same"


def _remark(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    known = sorted(config.keys() & HARMLESS.keys())
    field = rng.choice(known)
    config[field] = rng.choice(HARMLESS[field])
    names = sorted(config)
    rng.shuffle(names)
    text = json.dumps({name: config[name] for name in names}, indent=rng.choice((None, 0, 7)))
    config_path(folder).write_text("\n " * rng.randrange(3) + text + "\n" * rng.randrange(3), encoding="utf-8")
    return f"'{field}' is {config[field]!r}, and another order", "same"


def _left_out(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    inner = config.get("config")
    if isinstance(inner, dict) and rng.random() < 0.7:
        field = rng.choice(sorted(inner))
        config["config"] = {name: value for name, value in inner.items() if name != field}
    else:
        field = rng.choice(sorted(config))
        del config[field]
    write_config(folder, config)
    return f"no field '{field}'", "oracle"


def _bit(folder: Path, rng: Random) -> Made:
    path = config_path(folder)
    content = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(content)), 1 << rng.randrange(7)
    content[place] ^= bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} flipped", "oracle"


def _not_json(folder: Path, rng: Random) -> Made:
    path = config_path(folder)
    text = path.read_bytes()
    forms = (
        b"", b"[]", b"null", b"7", b'"LORA"', text[: rng.randrange(len(text) - 2)], text.replace(b'"', b"'"),
        b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), b"\x80\x02" + text, text + text, b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000, text.rstrip()[:-1] + b',"x":1' + b"0" * 5000 + b"}",
        text.rstrip()[:-1] + b',"peft_type":"LORA","peft_type":"IA3"}', text.rstrip()[:-1] + b",}",
        text.rstrip()[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"\0" * 500,
    )  # fmt: skip
    made = rng.choice(forms)
    path.write_bytes(made)
    return f"the configuration begins with {made[:24]!r} and has {len(made)} bytes", "refused"


def _huge(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    inside = config["config"] if isinstance(config.get("config"), dict) else config
    numbers = sorted(name for name, value in inside.items() if type(value) in (int, float))
    if not numbers:
        return None
    field, value = rng.choice(numbers), rng.choice((10**30, 10**400, -(10**400), float("inf"), float("nan"), 1e308))
    inside[field] = value
    write_config(folder, config)
    return f"'{field}' is {str(value)[:20]}", "oracle"


CONFIG_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "configuration: another value": (_field, _field, _field, _method_field, _method_field),
    "configuration: huge or no number": (_huge,),
    "configuration: unknown field": (_new_field, _unset_field),
    "configuration: field left out": (_left_out,),
    "configuration: a bit flipped": (_bit, _bit),
    "configuration: not JSON": (_not_json,),
    "configuration: other remarks": (_remark,),
}
"""By the family's name in the table."""
