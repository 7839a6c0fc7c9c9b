"""The code that loads a module's folder, for its README: with PEFT where PEFT can, else with Headstart.

That of a backbone with a module merged into it needs transformers only.
"""

import json
from collections.abc import Mapping

from headstart.records import ModuleCard, TextFormat

__all__ = ["snippet", "whole_model"]

PEFT_TYPES = frozenset({"LORA", "IA3", "PROMPT_TUNING", "PREFIX_TUNING"})
"""What PEFT loads; BitFit, prefixes of chosen attention units and adapters are not among them."""

CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
}
"""PEFT's class for each of its task types."""


MOST_LABELS = 20
"""Among more labels, the code lets the model write instead of choosing."""


def snippet(card: ModuleCard, config: Mapping[str, object], *, folder: str) -> list[str]:
    """Lines of Python that load the module from `folder` (a path or a repository) and run it on one input.

    Nothing if its configuration does not say where the backbone is; the place itself, which may be a path on somebody's
    machine, is only there.
    """
    family = CLASSES.get(str(config.get("task_type")))
    if not config.get("base_model_name_or_path"):
        return []
    if config.get("peft_type") not in PEFT_TYPES or family is None:
        return _by_headstart(folder)
    size = f", num_labels={card.head.outputs}" if card.head is not None and card.head.task != "span" else ""
    lines = [
        *_torch(card, seq2seq=config.get("task_type") != "CAUSAL_LM"),
        f"from peft import {family}",
        "from transformers import AutoTokenizer",
        "",
        f"model = {family}.from_pretrained({_quoted(folder)}{size}).eval()",
        'tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)',
    ]
    if card.head is not None:
        return [*lines, 'print(model(**tokenizer("Your text", return_tensors="pt")).logits)']
    return [*lines, *_answer(card, seq2seq=config.get("task_type") != "CAUSAL_LM")]


def whole_model(card: ModuleCard, *, seq2seq: bool, folder: str) -> list[str]:
    """Lines of Python that load a backbone with this module merged into it from `folder`, and run it on one input."""
    family = "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"
    return [
        *_torch(card, seq2seq=seq2seq),
        f"from transformers import {family}, AutoTokenizer",
        "",
        f"model = {family}.from_pretrained({_quoted(folder)}).eval()",
        f"tokenizer = AutoTokenizer.from_pretrained({_quoted(folder)})",
        *_answer(card, seq2seq=seq2seq),
    ]


def _answer(card: ModuleCard, *, seq2seq: bool) -> list[str]:
    if _chooses(card, seq2seq=seq2seq):
        return [*_inputs(card), *_choice(card)]
    written = "output[0]" if seq2seq else 'output[0, inputs["input_ids"].shape[1] :]'
    return [
        *_inputs(card),
        "output = model.generate(**inputs, max_new_tokens=16)",
        f"print(tokenizer.decode({written}, skip_special_tokens=True))",
    ]


def _choice(card: ModuleCard) -> list[str]:
    """Lines that choose among the labels by their likelihoods, calibrated as the card says: as `predict` does."""
    labels, made = card.labels or (), card.calibration
    method = made.method if made else "none"
    offsets = dict.fromkeys(labels, 0.0)
    if made and method == "batch":
        offsets = {label: round(made.offsets[label], 4) for label in labels}
    given = json.dumps(offsets, ensure_ascii=False)
    meaning = "what each label gets whatever the input says" if method == "batch" else "nothing is taken off"
    per_token = " / len(answer)" if method == "length" else ""
    return [
        f"offsets = {given}  # {meaning}",
        "",
        "",
        "def likelihood(label):",
        '    answer = tokenizer(f" {label}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]',
        '    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)',
        "    logits = model(ids).logits[0, -len(answer) - 1 : -1].float()",
        f"    chosen = logits.log_softmax(-1)[range(len(answer)), answer].sum().item(){per_token}",
        "    return chosen - offsets[label]",
        "",
        "",
        "print(max(offsets, key=likelihood))",
    ]


def _chooses(card: ModuleCard, *, seq2seq: bool) -> bool:
    """Whether the code chooses among labels, whose tokens follow the prompt after a space."""
    chats = card.text_format is not None and card.text_format.chat_template
    return bool(card.labels) and len(card.labels or ()) <= MOST_LABELS and card.head is None and not (seq2seq or chats)


def _torch(card: ModuleCard, *, seq2seq: bool) -> list[str]:
    return ["import torch"] * _chooses(card, seq2seq=seq2seq)


def _by_headstart(folder: str) -> list[str]:
    return [
        "import headstart as hs",
        "",
        f"module = hs.load_module({_quoted(folder)})",
        'backbone = hs.Backbone.load(module.config["base_model_name_or_path"])',
        'print(hs.predict(module, [{"input": "Your text"}], backbone, input="{input}"))',
    ]


def _inputs(card: ModuleCard) -> list[str]:
    layout = card.text_format or TextFormat(suffix="")
    text = _quoted(f"{layout.prefix}Your text{layout.suffix}")
    if not layout.chat_template:
        return [f'inputs = tokenizer({text}, return_tensors="pt")']
    return [
        f'turn = [{{"role": "user", "content": {text}}}]',
        "inputs = tokenizer.apply_chat_template(",
        '    turn, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
    ]


def _quoted(text: object) -> str:
    return json.dumps(str(text), ensure_ascii=False)
