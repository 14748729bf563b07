#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
create.sh [SETTINGS]
Create a slice and wait until it can be used: on demand, --spot, --queued, or --slices N (multislice).
Needs --name, --project, --zone, --type and --runtime.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need name project zone type runtime
no_more

flags=()
[[ -z $LMLAB_TPU_SPOT ]] || flags+=(--spot)
flags+=("${extra[@]}")

if [[ -z $LMLAB_TPU_QUEUED ]]; then
  run gcloud compute tpus tpu-vm create "$LMLAB_TPU_NAME" "${where[@]}" \
    "--accelerator-type=$LMLAB_TPU_TYPE" "--version=$LMLAB_TPU_RUNTIME" "${flags[@]}"
  exit
fi

if ((LMLAB_TPU_SLICES == 1)); then
  nodes=("--node-id=$LMLAB_TPU_NAME")
else
  nodes=("--node-count=$LMLAB_TPU_SLICES" "--node-prefix=$LMLAB_TPU_NAME")
fi
run gcloud compute tpus queued-resources create "$LMLAB_TPU_NAME" "${where[@]}" \
  "--accelerator-type=$LMLAB_TPU_TYPE" "--runtime-version=$LMLAB_TPU_RUNTIME" "${nodes[@]}" "${flags[@]}"
before=
while true; do
  look || exit
  [[ $slice != ready ]] || exit 0
  [[ $slice != lost ]] || fail 1 "$LMLAB_TPU_NAME is ${answer//$'\n'/, }: delete it and ask again."
  [[ $answer == "$before" ]] || say "$LMLAB_TPU_NAME is ${answer//$'\n'/, }; waiting."
  before=$answer
  pause
done
