#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
stop.sh [SETTINGS]
Ask the training on every host to save and end, and kill it where it has not after two minutes. The slice stays; a
watch.sh waits for start.sh.
Needs --name, --project and --zone.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need name project zone
no_more

on all "lmlab/tpu/worker.sh stop hold"
run "${ssh[@]}"
