#!/usr/bin/env bash
# Tunes the modules of the strong hub whose 250 steps read their rows but once for as many steps more: another order of
# the rows, half the learning rate, and the best of three dev losses, the first that of the module as it was. So where a
# second epoch does not help on dev rows, the module stays as it is ("best at step 0"). 6 to 20 minutes a module on one
# core. It continues where it stopped. Arguments as those of donors.sh, behind the folder that it wrote.
#
#   benchmarks/second_epoch.sh DONORS TASKS_FOLDER BACKBONE OUTPUT_FOLDER
set -euo pipefail
donors=$1 tasks=$2 backbone=$3 output=$4
recipe=(--recipe quick --set lr=0.0005 --set batch_size=16 --set max_steps=250 --set eval_every=125
        --set warmup_steps=25 --set max_input=160 --set select=loss --set max_dev=100 --seed 1 --dtype bfloat16)
mkdir -p "$output"
"${PYTHON:-python3}" - "$donors" <<'PY' | while IFS='|' read -r task license family; do
import json
import sys
from pathlib import Path

for path in sorted(Path(sys.argv[1]).glob("*/headstart.json")):
    card = json.loads(path.read_text())
    if card["train_rows"] > 3500:
        print(card["task"], card["license"], card["family"], sep="|")
PY
  [ -d "$output/$task" ] && continue
  "${HEADSTART:-headstart}" tune "$tasks/$task" --start "$donors/$task" --backbone "$backbone" -o "$output/$task" \
    --license "$license" ${family:+--family "$family"} "${recipe[@]}" < /dev/null
done
