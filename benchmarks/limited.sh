#!/usr/bin/env bash
# Tunes short modules of one kind, one per task, and keeps of each its early state (after 6 of 64 updates, about the 2 of
# 20 epochs of Zhou et al., 2022) and the curve of its loss: 64 steps of 8 rows, the best of nine dev losses kept; about
# 1.5 minutes a module on one core. It continues where it stopped. Modules of three kinds are what `3e` compares.
#
#   benchmarks/limited.sh TASKS_FOLDER BACKBONE OUTPUT_FOLDER lora|ia3|prefix TASK...
set -euo pipefail
tasks=$1 backbone=$2 output=$3 kind=$4
declare -A lr=([lora]=0.001 [ia3]=0.01 [prefix]=0.01)
mkdir -p "$output/$kind"
for task in "${@:5}"; do
  [ -d "$output/$kind/$task" ] && continue
  "${HEADSTART:-headstart}" tune "$tasks/$task" --backbone "$backbone" -o "$output/$kind/$task" --calibration none \
    --recipe quick --set kind="$kind" --set lr="${lr[$kind]}" --set max_steps=64 --set eval_every=8 --set early_steps=6 \
    --set max_input=128 --set select=loss --set max_dev=32 --dtype bfloat16 < /dev/null
done
