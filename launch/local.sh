#!/usr/bin/env bash
# Several processes on this machine that work as one run, to try --multihost or to use one process per GPU. If one ends,
# the others do; Ctrl-C and SIGTERM go to all of them, and they stop at the same step.
#
#   launch/local.sh -n 2 -- --config=vgg16 --workdir=runs/D
#
# Each process has one GPU of those that there are, or that CUDA_VISIBLE_DEVICES names; CPUs are split by
# XLA_FLAGS=--xla_force_host_platform_device_count=4.
set -euo pipefail
usage="launch/local.sh -n PROCESSES -- ARGUMENTS of vgg_jax"
[ "${1:-}" = -n ] && [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] && [ "${3:-}" = -- ] || { echo "$usage" >&2; exit 2; }
count=$2
shift 3
port=$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count
for ((number = 0; number < count; number++)); do
  # JAX counts the GPUs that are visible; without this it would take SLURM_LOCALID, which is the same for all.
  JAX_PROCESS_ID=$number JAX_LOCAL_DEVICE_IDS=$number python -m vgg_jax.main --multihost "$@" &
done
stop() { for signal in TERM CONT; do jobs -p | xargs --no-run-if-empty kill -"$signal" 2>/dev/null || true; done; }
trap stop TERM
trap : INT # a terminal's Ctrl-C reaches the processes too
status=0
while [ -n "$(jobs -p)" ]; do
  wait -n || {
    ended=$?
    ((status)) || status=$ended
    # What was asked to stop is saving, and a second request would not let it; others may say what they miss first.
    ((ended == 130 || ended == 143)) || { sleep 5 && stop; }
  }
done
exit "$status"
