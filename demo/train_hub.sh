#!/usr/bin/env bash
# Made the modules under demo/hub: one LoRA module per real task, tuned by `headstart tune` on SmolLM2-135M-Instruct.
# Needs the tasks as folders of train|dev|test.jsonl.gz with a task.json; about 2 minutes a module on 2 cores.
# A module takes the licence of its data where that asks for it (share alike), else Apache-2.0.
# Another SEED draws other rows, another order and another fresh module: 1 made those under benchmarks/seeds.
#
#   demo/train_hub.sh TASKS_FOLDER BACKBONE OUTPUT_FOLDER [SEED]
set -euo pipefail
tasks=$1 backbone=$2 output=$3 seed=${4:-0}
recipe=(--recipe quick --set rank=4 --set alpha=16 --set lr=0.002 --set max_steps=150 --set eval_every=50
        --set warmup_steps=10 --set max_input=128 --set select=loss --set max_dev=64 --train-rows 1200 --dtype bfloat16)
nli="Classification / Nli"
mkdir -p "$output"
while IFS='|' read -r task license family; do
  [ -d "$output/$task" ] && continue
  "${HEADSTART:-headstart}" tune "$tasks/$task" --backbone "$backbone" -o "$output/$task" --license "$license" \
    --seed "$seed" ${family:+--family "$family"} "${recipe[@]}" < /dev/null
done <<TASKS
amazon_polarity|apache-2.0
openbookqa|apache-2.0
snli|cc-by-sa-4.0|$nli
commonsense_qa|apache-2.0
paws|apache-2.0
tweet_eval-sentiment|apache-2.0
qasc|apache-2.0
scitail|apache-2.0
web_questions|apache-2.0
boolq|cc-by-sa-3.0
kilt_fever|cc-by-sa-3.0
wino_grande|apache-2.0
numer_sense|apache-2.0
qnli|cc-by-sa-4.0|$nli
codah|apache-2.0
blimp-irregular_past_participle_adjectives|apache-2.0
TASKS
