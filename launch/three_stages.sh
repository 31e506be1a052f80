#!/usr/bin/env bash
# The paper's three stages for one net (Sec. 3.1), one after another: S = 256 from scratch, S = 384 from it at a rate of
# 1e-3, then S drawn from [256; 512]. Safe to start again at any time: finished stages end at once, the other resumes.
#
#   launch/three_stages.sh vgg19 runs/E [--config.data.source=... and other overrides for all stages]
set -euo pipefail
config=configs/${1:?the name of a config, vgg16_1x1, vgg16 or vgg19}.py
folder=${2:?a folder for the three runs}
shift 2
train() { python -m vgg_jax.main --config="$config:$1" --workdir="$folder-$1" "${@:2}"; }
train s256 "$@"
train s384 --config.init.from_run="$folder-s256" "$@"
train jitter --config.init.from_run="$folder-s384" "$@"
