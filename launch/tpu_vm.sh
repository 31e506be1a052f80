#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice, by gcloud: the same command on each, and JAX finds the others by itself.
# Start it again to go on after a maintenance event. Not run: no TPU was at hand.
#
#   launch/tpu_vm.sh NAME ZONE --config=vgg19 --workdir=/mnt/shared/runs/E
#
# Every host has this package installed with its extra [tpu]; the workdir and the data are on a file system that all share.
set -euo pipefail
name=${1:?the name of the TPU}
zone=${2:?its zone}
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="python3 -m vgg_jax.main --multihost $(printf '%q ' "$@")"
