#!/usr/bin/env bash
# Tables 3 to 6 for small nets A, B, C and D on your photographs: each trained at a fixed S and then with scale jitter,
# as the paper does (Sec. 3.1), evaluated by every protocol and fused. Safe to start again at any time: what is finished
# ends at once, the rest resumes.
#
#   launch/tables.sh PHOTOGRAPHS FOLDER [--config.train.steps=... and other overrides for all runs]
#
# PHOTOGRAPHS holds a folder a class, or train, validation and test with a folder a class in each.
set -euo pipefail
photographs=${1:?a folder of class folders of photographs}
folder=${2:?a folder for the runs}
shift 2
train() {
  python -m vgg_jax.main --config="configs/folder.py:$photographs" --workdir="$folder/$1-$2" --config.model.net="$1" \
    --config.model.width=0.125 --config.data.crop=64 "${@:3}"
}
runs=()
for net in A B C D; do
  train "$net" fixed --config.data.scale="(72, 72)" --config.train.steps=800 \
    --config.schedule.boundaries="(550, 725)" "$@"
  train "$net" jitter --config.data.scale="(72, 144)" --config.train.steps=300 --config.train.learning_rate=0.002 \
    --config.schedule.boundaries="(200,)" --config.init.from_run="$folder/$net-fixed" "$@"
  runs+=("$folder/$net-fixed" "$folder/$net-jitter")
done
protocols="('center', 'dense', 'crops', 'both')"
python -m vgg_jax.main --mode=evaluate --checkpoint="$(IFS=,; echo "${runs[*]}")" --workdir="$folder" \
  --config.evaluate.protocols="$protocols"
