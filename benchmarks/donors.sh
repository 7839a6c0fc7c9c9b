#!/usr/bin/env bash
# Tunes the modules of the strong hub, one LoRA (r = 8, 250 steps of 16 rows, so up to 4,000 rows, the best of three dev
# losses kept) per task, on SmolLM2-135M-Instruct; 4 to 15 minutes a module on one core. It continues where it stopped.
# Needs the tasks as folders of train|dev|test.jsonl.gz with a task.json. A module takes the licence of its data where
# that asks for it (share alike), else Apache-2.0. Targets of the study have no module here. Parameters are kept in
# float16, so that all of them take 24 MB; `python -m benchmarks.halve FOLDER OUTPUT` does that.
#
#   benchmarks/donors.sh TASKS_FOLDER BACKBONE OUTPUT_FOLDER
set -euo pipefail
tasks=$1 backbone=$2 output=$3
recipe=(--recipe quick --set rank=8 --set alpha=16 --set lr=0.001 --set batch_size=16 --set max_steps=250
        --set eval_every=125 --set warmup_steps=25 --set max_input=160 --set select=loss --set max_dev=100
        --dtype bfloat16)
nli="Classification / Nli"
mkdir -p "$output"
while IFS='|' read -r task license family; do
  [ -d "$output/$task" ] && continue
  "${HEADSTART:-headstart}" tune "$tasks/$task" --backbone "$backbone" -o "$output/$task" --license "$license" \
    ${family:+--family "$family"} "${recipe[@]}" < /dev/null
done <<TASKS
snli|cc-by-sa-4.0|$nli
commonsense_qa|apache-2.0
tweet_eval-sentiment|apache-2.0
kilt_fever|cc-by-sa-3.0
wino_grande|apache-2.0
qasc|apache-2.0
numer_sense|apache-2.0
paws|apache-2.0
social_i_qa|apache-2.0
web_questions|apache-2.0
openbookqa|apache-2.0
codah|apache-2.0
sick|cc-by-sa-4.0
blimp-irregular_past_participle_adjectives|apache-2.0
quartz-with_knowledge|apache-2.0
sciq|apache-2.0
piqa|apache-2.0
lama-google_re|cc-by-sa-4.0
scitail|apache-2.0
amazon_polarity|apache-2.0
mnli|apache-2.0|$nli
boolq|cc-by-sa-3.0
kilt_hotpotqa|cc-by-sa-4.0
hellaswag|apache-2.0
blimp-sentential_negation_npi_scope|cc-by-4.0
qnli|cc-by-sa-4.0|$nli
TASKS
