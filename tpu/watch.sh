#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'END'
watch.sh [SETTINGS] PAPER/ARM [ARGUMENTS OF lmlab train]
Keep one training going until it ends. Every --every seconds it looks at the slice: PREEMPTED, TERMINATED, SUSPENDED or
FAILED is deleted, created again, installed and started; hosts without a run are started. Training resumes from the
checkpoints in the --bucket, or from --results, which is fetched every half hour and sent to the new slice. After a
stop.sh it waits for a start.sh, unless the slice is taken away.
Ends with 0 when training has ended well; with 2 when training refuses to go on (bad arguments, a loss that is not
finite); and with the status of what failed when three looks in a row fail or training ends three times in an hour.
Needs what create.sh, install.sh and start.sh need, and --bucket or --results.
END
}
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need name project zone type runtime repository commit
[[ ${rest[0]:-} == ?*/?* ]] || fail 2 "Name what to train as PAPER/ARM, such as hnet/hnet_1stage."
[[ -n $LMLAB_TPU_BUCKET$LMLAB_TPU_RESULTS ]] ||
  fail 2 "Missing --bucket or --results: a preempted slice loses its disks, and training would begin again."

finished='' deleted='' held='' fetched=0 started=0 crashes=0 supposed=lost

fetch() {
  [[ -z $LMLAB_TPU_BUCKET && -n $LMLAB_TPU_RESULTS ]] || return 0
  "$here/fetch.sh" || return
  fetched=$SECONDS
}

start() {
  "$here/start.sh" "${rest[@]}" || return
  started=$SECONDS
}

restart() {
  on all "lmlab/tpu/worker.sh stop"
  (run "${ssh[@]}") && start
}

create() {
  "$here/create.sh" && deleted='' && "$here/install.sh" && start
}

# One look, and what follows from it. Fails if anything that it calls fails.
round() {
  local status=0
  look "$supposed" || status=$?
  if ((status)); then
    [[ -n $deleted ]] || return "$status"
    # Deleted by us, and the creation did not get through.
    create
    return
  fi
  supposed=
  case $slice in
    lost)
      say "$LMLAB_TPU_NAME is ${answer//$'\n'/, }; creating it again."
      crashes=0 # hosts that are being taken away crash first
      "$here/delete.sh" --quiet && deleted=1 && create
      return
      ;;
    waiting)
      say "$LMLAB_TPU_NAME is ${answer//$'\n'/, }; waiting."
      return
      ;;
  esac
  on 0 "if test -x lmlab/tpu/worker.sh; then lmlab/tpu/worker.sh status; else echo absent; fi"
  ask "ended 0" "${ssh[@]}" || return
  case ${answer##*$'\n'} in
    running)
      held=
      ((SECONDS - fetched < 1800)) || fetch
      ;;
    absent)
      say "lmlab is not installed on $LMLAB_TPU_NAME; installing."
      "$here/install.sh" && start
      ;;
    idle)
      say "Nothing was started on $LMLAB_TPU_NAME since its hosts came up; starting."
      # The other hosts may still run, and wait for this one.
      restart
      ;;
    "ended 0" | "ended 2")
      finished=${answer##* }
      fetch
      ;;
    ended*)
      # What ended after an hour had a fault of its own; what ends at once would end for ever.
      crashes=$((SECONDS - started < 3600 ? crashes + 1 : 1))
      ((crashes < 3)) || fail "${answer##* }" "Training ended three times within an hour: log.sh shows the last lines."
      say "Training on $LMLAB_TPU_NAME has ${answer##*$'\n'}; starting again."
      # The other hosts may still hang in a collective, and hold their chips.
      restart
      ;;
    held)
      [[ -n $held ]] || fetch || return
      held=1
      say "Training on $LMLAB_TPU_NAME was stopped by stop.sh; waiting for start.sh."
      ;;
    *)
      say "The first host of $LMLAB_TPU_NAME answered '$answer'."
      return 1
      ;;
  esac
}

failures=0
while true; do
  status=0
  round || status=$?
  failures=$((status ? failures + 1 : 0))
  [[ $finished != 2 ]] || fail 2 "Training refused to go on: log.sh shows the sentence that says why."
  ((failures < 3)) || fail "$status" "Three attempts in a row failed, the last with exit status $status."
  if [[ -n $finished ]] && ((status == 0)); then break; fi
  pause
done
say "Training has ended. The slice is still there, and is paid for, until delete.sh."
