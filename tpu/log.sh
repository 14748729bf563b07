#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
log.sh [SETTINGS] [WORKER]
Follow the log of one host of the first slice (default: 0). Ctrl-C ends the following, not the training.
Needs --name, --project and --zone.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need name project zone
worker=${rest[0]:-0}
rest=("${rest[@]:1}")
no_more
[[ $worker =~ ^[0-9]+$ ]] || fail 2 "A worker is a number, not '$worker'."

on "$worker" "tail -n 200 -F lmlab-run/log"
run "${ssh[@]}"
