"""Checks of sound folders: saved and loaded, shared with PEFT, read from AdapterHub and OpenDelta."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import save_file
from torch import Tensor

from headstart.architectures import architecture_of
from headstart.backbones import Encoded
from headstart.backbones.loading import is_encoder
from headstart.errors import ModuleError
from headstart.filenames import CONFIG_FILE
from headstart.formats.libraries.adapterhub_prefix import units_of
from headstart.kinds import Module, load_module, save_module
from headstart.testing.adapterhub_prefix import write_adapterhub_prefix
from headstart.testing.case import TOLERANCE, Aside, Case, close, require, same_head
from headstart.testing.opendelta import in_opendelta, write_opendelta

__all__ = [
    "adapterhub_folder_is_read",
    "opendelta_folder_is_read",
    "peft_computes_the_same",
    "peft_saves_the_same",
    "save_then_load_is_itself",
]

METHODS: dict[str, dict[str, object]] = {
    "lora": {"architecture": "lora", "composition_mode": "add"},
    "ia3": {"architecture": "lora", "composition_mode": "scale"},
    "prefix": {"architecture": "prefix_tuning"},
    "prompt": {"architecture": "prompt_tuning"},
}
"""AdapterHub's names for the kinds that it has besides bottleneck adapters."""

WHOLE = {"q": "query", "k": "key", "v": "value"}
INTERMEDIATE, OUTPUT = {"wi", "wi_1", "c_fc", "down_proj", "fc1"}, {"wo", "c_proj", "up_proj", "fc2"}
"""The last parts of the paths of feed-forward layers, as AdapterHub's fields for LoRA count them."""


def save_then_load_is_itself(case: Case) -> None:
    """A saved module, with its card, loads as the same parameters and computes bit for bit the same."""
    module = case.module()
    expected = case.logits([module])
    save_module(module, case.folder / "saved")
    loaded = load_module(case.folder / "saved")
    loaded.check(case.backbone)
    _require_same(loaded, module)
    same_head(loaded, module)
    require(torch.equal(case.logits([loaded]), expected), "the loaded module computes something else")
    require(loaded.stack_key == module.stack_key, "the loaded module has another stack_key")


def peft_computes_the_same(case: Case) -> None:
    """PEFT loads the saved folder and computes the same logits, example by example without padding."""
    module = case.module()
    require_peft(module)
    model = _in_peft(case, case.saved(module))
    with torch.inference_mode():
        expected = torch.cat([_peft_logits(model, item) for item in case.items])
    close(case.logits([module])[0], expected, "logits of PEFT")


def peft_saves_the_same(case: Case) -> None:
    """The folder in which PEFT saves the loaded module is read here and computes the same."""
    module = case.module()
    require_peft(module)
    # For embedding layers, PEFT would ask the network.
    _in_peft(case, case.saved(module)).save_pretrained(case.folder / "by-peft", save_embedding_layers=False)
    loaded = case.take(case.folder / "by-peft")
    close(case.logits([loaded]), case.logits([module]), "the module that PEFT saved", within=TOLERANCE)


def adapterhub_folder_is_read(case: Case) -> None:
    """A folder as AdapterHub's library lays it out is read and computes the same, or is refused by name."""
    module = case.module()
    architecture = architecture_of(case.backbone.model.config.model_type)
    if is_adapterhub(module):
        if architecture is None or not architecture.library:
            raise Aside("skipped", "AdapterHub has no such models")
        loaded = case.take(case.saved(module))
        close(case.logits([loaded.with_head(module.head)]), case.logits([module]), "the module in AdapterHub's folder")
        return
    if case.kind not in METHODS:
        raise Aside("skipped", "AdapterHub has no such kind")
    folder = case.folder / "adapterhub"
    if case.kind == "prefix" and units_of(case.backbone.model.config.model_type):
        module = write_adapterhub_prefix(case, folder).with_head(module.head)
    else:
        _write_adapterhub(case, module, folder)
    try:
        loaded = case.take(folder)
    except ModuleError as error:
        raise Aside("refused", str(error)) from error
    close(case.logits([loaded.with_head(module.head)]), case.logits([module]), "the module in AdapterHub's folder")


def opendelta_folder_is_read(case: Case) -> None:
    """A folder as OpenDelta's library lays it out is read and computes the same, or is refused by name."""
    module = case.module()
    if not in_opendelta(module):
        raise Aside("skipped", "OpenDelta has another such kind, or none")
    write_opendelta(case, module, case.folder / "opendelta")
    try:
        loaded = case.take(case.folder / "opendelta")
    except ModuleError as error:
        raise Aside("refused", str(error)) from error
    close(case.logits([loaded.with_head(module.head)]), case.logits([module]), "the module in OpenDelta's folder")


def is_adapterhub(module: Module) -> bool:
    """Whether a module is saved in AdapterHub's layout."""
    return "peft_type" not in module.config and "model_type" in module.config


def require_peft(module: Module) -> None:
    """End the check unless PEFT has this kind."""
    if module.config.get("peft_type") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise Aside("skipped", "not in PEFT")


def _in_peft(case: Case, folder: Path) -> Any:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(copy.deepcopy(case.backbone.model), folder, torch_device="cpu").eval()


def _peft_logits(model: Any, item: Encoded) -> Tensor:
    """Logits at the target positions, (targets, vocabulary); PEFT's prompts and prefixes come before them.

    For an encoder, those of its head, (1, labels).
    """
    config, ids = model.get_base_model().config, torch.tensor([item.prompt])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if config.is_encoder_decoder:
            decoder = torch.tensor([[config.decoder_start_token_id, *item.target[:-1]]])
            logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=decoder).logits
        elif is_encoder(config):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.unsqueeze(0)
        else:
            ids = torch.tensor([item.prompt + item.target[:-1]])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits[0, -len(item.target) :]


def _write_adapterhub(case: Case, module: Module, folder: Path) -> None:
    """The folder in which `adapters` would save this module; LoRA's tensors are renamed, others are not."""
    method, tensors = dict(METHODS[case.kind]), dict(module.state_dict())
    if case.kind == "lora":
        base = f"{case.backbone.model.base_model_prefix}."
        tensors = {_adapterhub_name(name, base): value for name, value in tensors.items()}
        config: Any = module.config
        ends = {name.split(".loras.")[0].rpartition(".")[2] for name in tensors}
        names = {m: {m, f"{m}_proj", WHOLE[m], f"{WHOLE[m]}_proj"} for m in "qkv"}
        matrices = sorted(matrix for matrix, own in names.items() if ends & own)
        method |= {
            "alpha": config["lora_alpha"], "r": config["r"], "attn_matrices": matrices,
            "selfattn_lora": bool(matrices), "intermediate_lora": bool(ends & INTERMEDIATE),
            "output_lora": bool(ends & OUTPUT), "use_gating": False, "dropout": 0.0,
        }  # fmt: skip
    folder.mkdir()
    described = {
        "config": method, "hidden_size": case.backbone.model.config.hidden_size, "name": "m",
        "model_class": type(case.backbone.model).__name__, "model_name": case.backbone.name,
        "model_type": case.backbone.model.config.model_type, "version": "adapters.1.3.0",
    }  # fmt: skip
    (folder / CONFIG_FILE).write_text(json.dumps(described))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "adapter.safetensors")


def _adapterhub_name(name: str, base: str) -> str:
    layer, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
    return f"{layer.removeprefix(base)}.loras.m.{factor}"


def _require_same(found: Module, expected: Module) -> None:
    mine, theirs = found.parameters(), expected.parameters()
    require(mine.keys() == theirs.keys(), "the loaded module has parameters of other names")
    for name, value in theirs.items():
        require(torch.equal(mine[name], value), f"{name} is another one after loading")
