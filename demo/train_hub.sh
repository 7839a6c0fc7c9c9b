#!/usr/bin/env bash
# Made the modules under demo/hub: one LoRA module per real task, tuned by `headstart tune` on SmolLM2-135M-Instruct.
# usage: demo/train_hub.sh TASKS_FOLDER BACKBONE OUTPUT_FOLDER   (about 2 minutes a module on 2 cores; killed runs continue)
set -euo pipefail
tasks=$1 backbone=$2 output=$3
recipe=(--recipe quick --set rank=4 --set alpha=16 --set lr=0.002 --set max_steps=150 --set eval_every=50
        --set warmup_steps=10 --set max_input=128 --set select=loss --set max_dev=64 --train-rows 1200 --dtype bfloat16)
mkdir -p "$output"
for task in amazon_polarity openbookqa snli commonsense_qa paws tweet_eval-sentiment qasc scitail web_questions \
            boolq kilt_fever wino_grande numer_sense qnli codah blimp-irregular_past_participle_adjectives piqa; do
  [ -d "$output/$task" ] && continue
  "${HEADSTART:-headstart}" tune "$tasks/$task" --backbone "$backbone" -o "$output/$task" --license apache-2.0 "${recipe[@]}"
done
