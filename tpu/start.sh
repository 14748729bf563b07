#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
start.sh [SETTINGS] PAPER/ARM [ARGUMENTS OF lmlab train]
Start `lmlab train PAPER/ARM ... --distributed` on every host, one process each, in the background: it outlives the
connection, logs to lmlab-run/log, and resumes where its checkpoints stopped.
Needs --name, --project and --zone.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need name project zone
[[ ${rest[0]:-} == ?*/?* ]] || fail 2 "Name what to train as PAPER/ARM, such as hnet/hnet_1stage."

command=(lmlab/tpu/worker.sh start "${rest[@]}" --distributed)
((${#env[@]} == 0)) || command=(env "${env[@]}" "${command[@]}")
on all "$(quoted "${command[@]}")"
run "${ssh[@]}"
