#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
delete.sh [SETTINGS] [--quiet]
Delete the slice, or the queued resource with its slices, and what is on their disks. gcloud asks first; --quiet: not.
Needs --name, --project and --zone, and --queued or --slices as it was created.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
quiet=()
if [[ ${rest[0]:-} == --quiet ]]; then
  quiet=(--quiet)
  rest=("${rest[@]:1}")
fi
need name project zone
no_more

if [[ -n $LMLAB_TPU_QUEUED ]]; then
  run gcloud compute tpus queued-resources delete "$LMLAB_TPU_NAME" "${where[@]}" --force "${quiet[@]}"
else
  run gcloud compute tpus tpu-vm delete "$LMLAB_TPU_NAME" "${where[@]}" "${quiet[@]}"
fi
