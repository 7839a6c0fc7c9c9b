"""PEFT's configurations as they are written to adapter_config.json."""

from typing import Any

from peft import PeftConfig

from headstart.backbones import Backbone

__all__ = ["peft_config"]


def peft_config(family: type[PeftConfig], backbone: Backbone | None, **fields: Any) -> dict[str, Any]:
    """The configuration of a fresh module, for this backbone or any causal language model, in plain values."""
    config = family(
        task_type="CAUSAL_LM" if backbone is None else backbone.task_type,
        base_model_name_or_path=None if backbone is None else backbone.place,
        inference_mode=True,
        **fields,
    )
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {key: getattr(value, "value", value) for key, value in plain.items()}
