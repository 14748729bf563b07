#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
fetch.sh [SETTINGS]
Copy runs/ from the --bucket, or without one from the disk of the first host, to runs/ under --results.
Needs --results, and --bucket or --name, --project and --zone.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need results
[[ -n $LMLAB_TPU_BUCKET ]] || need name project zone
no_more

run mkdir -p "$LMLAB_TPU_RESULTS/runs"
if [[ -n $LMLAB_TPU_BUCKET ]]; then
  run gcloud storage rsync "$LMLAB_TPU_BUCKET/runs" "$LMLAB_TPU_RESULTS/runs" --recursive
else
  copy=(gcloud compute tpus)
  if ((LMLAB_TPU_SLICES == 1)); then copy+=(tpu-vm scp); else copy+=(queued-resources scp --node=0); fi
  run "${copy[@]}" --recurse --worker=0 "${where[@]}" "$LMLAB_TPU_NAME:runs" "$LMLAB_TPU_RESULTS"
fi
