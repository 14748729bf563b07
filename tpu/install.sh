#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
install.sh [SETTINGS]
Clone --repository at --commit on every host, make a virtual environment with jax[tpu] there, and mount --bucket.
Without a bucket, runs/ under --results is sent to hosts that have no ~/runs yet, so that training goes on from what was
fetched. Needs --name, --project, --zone, --repository and --commit. Running it again updates the code alone.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need name project zone repository commit
no_more

url=$(quoted "$LMLAB_TPU_REPOSITORY")
commit=$(quoted "$LMLAB_TPU_COMMIT")
install=(lmlab/tpu/worker.sh install)
[[ -z $LMLAB_TPU_BUCKET ]] || install+=("$LMLAB_TPU_BUCKET")
on all "set -e; test -d lmlab || git clone --quiet $url lmlab; git -C lmlab remote set-url origin $url; \
git -C lmlab fetch --quiet --tags origin; git -C lmlab checkout --quiet --detach $commit; $(quoted "${install[@]}")"
run "${ssh[@]}"

if [[ -z $LMLAB_TPU_BUCKET && -n $LMLAB_TPU_RESULTS && -d $LMLAB_TPU_RESULTS/runs ]]; then
  on 0 "if test -d runs; then echo runs; else echo none; fi"
  ask none "${ssh[@]}"
  # What a host has is newer than what was fetched from it.
  if [[ ${answer##*$'\n'} == runs ]]; then exit 0; fi
  copy=(gcloud compute tpus)
  if ((LMLAB_TPU_SLICES == 1)); then copy+=(tpu-vm scp); else copy+=(queued-resources scp --node=all); fi
  # Under another name until all of it is there.
  on all "rm -rf runs.new"
  run "${ssh[@]}"
  run "${copy[@]}" --recurse --worker=all "${where[@]}" "$LMLAB_TPU_RESULTS/runs" "$LMLAB_TPU_NAME:runs.new"
  on all "test -e runs || mv runs.new runs"
  run "${ssh[@]}"
fi
