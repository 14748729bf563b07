#!/usr/bin/env bash
# What happens on one host of a slice. The other scripts call this one over ssh, in the clone that install.sh made.
#
#   worker.sh install [gs://BUCKET[/PREFIX]]   virtual environment with jax[tpu], and the bucket mounted
#   worker.sh start PAPER/ARM [ARGUMENTS]      lmlab train in the background; log, process id and status in ~/lmlab-run
#   worker.sh stop [hold]                      SIGTERM, and SIGKILL after LMLAB_TPU_GRACE seconds (default: 120)
#   worker.sh status                           running, held (by stop hold), "ended STATUS", or idle
set -euo pipefail

lmlab=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=$HOME/lmlab-run
mount=$HOME/lmlab-bucket
PATH=$HOME/.local/bin:$PATH

fail() {
  printf 'worker.sh on %s: %s\n' "$(hostname)" "${*:2}" >&2
  exit "$1"
}

# The training of the last start, if it still runs. A process id may be another's after a restart of the host.
alive() {
  [[ -f $state/pid && ! -f $state/exit ]] && grep -qs "$lmlab" "/proc/$(<"$state/pid")/cmdline"
}

mount_bucket() {
  [[ -f $state/bucket ]] || return 0
  mkdir -p "$mount"
  if mountpoint -q "$mount"; then return; fi
  local bucket prefix flags=(--implicit-dirs)
  bucket=$(<"$state/bucket")
  bucket=${bucket#gs://}
  prefix=${bucket#*/}
  [[ $prefix == "$bucket" ]] || flags+=(--only-dir "$prefix")
  gcsfuse "${flags[@]}" "${bucket%%/*}" "$mount"
}

install_gcsfuse() {
  { sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse; } ||
    fail 4 "gcsfuse is not among this image's packages: add Google's source, as gcsfuse's documentation says."
}

case ${1:-} in
  install)
    mkdir -p "$state"
    # uv brings a Python of its own: that of the TPU images is older than lmlab needs.
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv
    uv venv --quiet --allow-existing --python 3.12 "$lmlab/.venv"
    uv pip install --quiet --python "$lmlab/.venv/bin/python" --editable "${lmlab}[tpu]"
    rm -f "$state/bucket"
    if [[ -n ${2:-} ]]; then
      printf '%s\n' "$2" >"$state/bucket"
      command -v gcsfuse >/dev/null || install_gcsfuse
      mount_bucket
    fi
    ;;

  start)
    shift
    if alive; then fail 3 "a training already runs here, as process $(<"$state/pid"): stop.sh ends it."; fi
    [[ -x $lmlab/.venv/bin/lmlab ]] || fail 4 "lmlab is not installed here: install.sh does that."
    mkdir -p "$state"
    mount_bucket
    rm -f "$state/pid" "$state/exit" "$state/held"
    # A session of its own, so that the end of the ssh connection does not reach it.
    setsid nohup "${BASH_SOURCE[0]}" run "$@" </dev/null >>"$state/log" 2>&1 &
    for _ in {1..100}; do
      [[ ! -f $state/pid ]] || exit 0
      sleep 0.1
    done
    fail 5 "the training did not start: see lmlab-run/log."
    ;;

  run) # by start
    shift
    cd "$HOME"
    [[ ! -f $state/bucket ]] || cd "$mount"
    # Named, so that JAX fails where there is no TPU instead of training on the CPU.
    export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu}
    status=0
    "$lmlab/.venv/bin/lmlab" train "$@" &
    echo $! >"$state/pid.new"
    mv "$state/pid.new" "$state/pid"
    wait $! || status=$?
    echo "$status" >"$state/exit.new"
    mv "$state/exit.new" "$state/exit"
    ;;

  stop)
    mkdir -p "$state"
    [[ ${2:-} != hold ]] || touch "$state/held"
    if ! alive; then exit 0; fi
    pid=$(<"$state/pid")
    kill -TERM "$pid"
    for ((i = 0; i < ${LMLAB_TPU_GRACE:-120} * 10; i++)); do
      if ! alive; then exit 0; fi
      sleep 0.1
    done
    kill -KILL "$pid"
    while alive; do sleep 0.1; done
    ;;

  status)
    if alive; then
      echo running
    elif [[ -f $state/held && $(cat "$state/exit" 2>/dev/null) != 0 ]]; then
      echo held
    elif [[ -f $state/exit ]]; then
      echo "ended $(<"$state/exit")"
    else
      echo idle
    fi
    ;;

  *) fail 2 "takes install, start, stop or status." ;;
esac
