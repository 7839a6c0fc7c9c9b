"""Copies of modules in float16, for a hub that is kept with the source: `python -m benchmarks.halve FOLDER OUTPUT`."""

import json
import sys
from pathlib import Path

from headstart.kinds import load_module, save_module


def halve(folder: Path, output: Path) -> None:
    """Copy every module below `folder` that `output` lacks; the backbone is named instead of where it lay."""
    for card in sorted(folder.glob("*/headstart.json")):
        name = card.parent.name
        if (output / name).exists():
            continue
        module = load_module(card.parent).load()
        save_module(
            module.with_parameters({key: value.half() for key, value in module.parameters().items()}), output / name
        )
        config = output / name / "adapter_config.json"
        stated = json.loads(config.read_text(encoding="utf-8"))
        stated["base_model_name_or_path"] = Path(stated["base_model_name_or_path"]).name
        config.write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {module.card.metric} {module.card.score:.3f}")


if __name__ == "__main__":
    halve(Path(sys.argv[1]), Path(sys.argv[2]))
