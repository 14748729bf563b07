# shellcheck shell=bash
# shellcheck disable=SC2034
#
# Settings and helpers of every script here. Settings come from flags or the environment: no project, zone or quota is
# written down. Every command goes through `run` or `ask`, so that a dry run prints exactly what would be called.

: "${LMLAB_TPU_NAME:=}" "${LMLAB_TPU_PROJECT:=}" "${LMLAB_TPU_ZONE:=}" "${LMLAB_TPU_TYPE:=}" "${LMLAB_TPU_RUNTIME:=}"
: "${LMLAB_TPU_SLICES:=1}" "${LMLAB_TPU_QUEUED:=}" "${LMLAB_TPU_SPOT:=}" "${LMLAB_TPU_EXTRA:=}" "${LMLAB_TPU_ENV:=}"
: "${LMLAB_TPU_REPOSITORY:=}" "${LMLAB_TPU_COMMIT:=}" "${LMLAB_TPU_BUCKET:=}" "${LMLAB_TPU_RESULTS:=}"
: "${LMLAB_TPU_EVERY:=60}" "${LMLAB_TPU_DRY_RUN:=}"
export "${!LMLAB_TPU_@}"

script=${0##*/}
if ((BASH_VERSINFO[0] < 5)); then
  echo "$script: needs bash 5, and this is $BASH_VERSION (on macOS: brew install bash)." >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

settings_help() {
  cat <<'END'

Settings come first, as flags or from the environment:
  --name NAME        LMLAB_TPU_NAME        of the slice, or of the queued resource
  --project PROJECT  LMLAB_TPU_PROJECT
  --zone ZONE        LMLAB_TPU_ZONE
  --type TYPE        LMLAB_TPU_TYPE        accelerator type, such as v5litepod-16
  --runtime VERSION  LMLAB_TPU_RUNTIME     software of the hosts, such as v2-alpha-tpuv5-lite
  --slices N         LMLAB_TPU_SLICES      more than 1 is multislice, always a queued resource (default: 1)
  --queued           LMLAB_TPU_QUEUED=1    queue for capacity instead of failing without
  --spot             LMLAB_TPU_SPOT=1      cheaper, and may be preempted at any time
  --extra FLAG       LMLAB_TPU_EXTRA       a further flag of gcloud's create, such as --extra --reserved; repeatable
                                           (one per line in the variable, here and below)
  --env NAME=VALUE   LMLAB_TPU_ENV         a variable of the training's environment; repeatable
  --repository URL   LMLAB_TPU_REPOSITORY  git repository that the hosts clone
  --commit COMMIT    LMLAB_TPU_COMMIT      what they check out
  --bucket gs://B/P  LMLAB_TPU_BUCKET      where the hosts write runs/ (default: their own disks)
  --results DIR      LMLAB_TPU_RESULTS     local folder that runs/ is fetched to; without a bucket also sent from
  --every SECONDS    LMLAB_TPU_EVERY       between two looks at a state (default: 60)
  --dry-run          LMLAB_TPU_DRY_RUN=1   print the commands, quoted to be pasted, and run none
END
}

say() { printf '%s: %s\n' "$script" "$*" >&2; }

# fail STATUS SENTENCE
fail() {
  say "${*:2}"
  exit "$1"
}

# Settings from the flags; what follows them is left in the array `rest`.
parse() {
  local variable
  while (($#)); do
    variable=${1#--}
    variable=LMLAB_TPU_${variable^^}
    case $1 in
      --help | -h)
        usage
        settings_help
        exit 0
        ;;
      --queued | --spot | --dry-run) printf -v "${variable//-/_}" 1 ;;
      --name | --project | --zone | --type | --runtime | --slices | --extra | --env | --repository | --commit | \
        --bucket | --results | --every)
        (($# > 1)) && [[ -n $2 ]] || fail 2 "$1 needs a value."
        case $1 in
          --extra | --env) printf -v "$variable" %s "${!variable}${!variable:+$'\n'}$2" ;;
          *) printf -v "$variable" %s "$2" ;;
        esac
        shift
        ;;
      *) break ;;
    esac
    shift
  done
  rest=("$@")
  [[ $LMLAB_TPU_SLICES =~ ^[1-9][0-9]*$ ]] || fail 2 "--slices takes a positive integer, not '$LMLAB_TPU_SLICES'."
  [[ $LMLAB_TPU_EVERY =~ ^[0-9]+$ ]] || fail 2 "--every takes whole seconds, not '$LMLAB_TPU_EVERY'."
  [[ -z $LMLAB_TPU_NAME || $LMLAB_TPU_NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail 2 "--name takes lower-case letters, digits and hyphens, not '$LMLAB_TPU_NAME'."
  [[ -z $LMLAB_TPU_BUCKET || $LMLAB_TPU_BUCKET == gs://[a-z0-9]* ]] ||
    fail 2 "--bucket takes gs://BUCKET or gs://BUCKET/PREFIX, not '$LMLAB_TPU_BUCKET'."
  LMLAB_TPU_BUCKET=${LMLAB_TPU_BUCKET%/}
  extra=() env=()
  [[ -z $LMLAB_TPU_EXTRA ]] || readarray -t extra <<<"$LMLAB_TPU_EXTRA"
  [[ -z $LMLAB_TPU_ENV ]] || readarray -t env <<<"$LMLAB_TPU_ENV"
  for variable in "${env[@]}"; do
    [[ $variable =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || fail 2 "--env takes NAME=VALUE, not '$variable'."
  done
  ((LMLAB_TPU_SLICES == 1)) || LMLAB_TPU_QUEUED=1
  where=("--project=$LMLAB_TPU_PROJECT" "--zone=$LMLAB_TPU_ZONE")
}

# need SETTING...: each must be there. Flags that are no settings end here too.
need() {
  local setting variable
  for setting in "$@"; do
    variable=LMLAB_TPU_${setting^^}
    [[ -n ${!variable} ]] || fail 2 "Missing --$setting (or $variable)."
  done
  [[ ${rest[0]:-} != -* ]] || fail 2 "${rest[0]} is not a setting; see $script --help."
}

no_more() { ((${#rest[@]} == 0)) || fail 2 "Unexpected argument '${rest[0]}'."; }

# The words of a command, each quoted where the shell needs it.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=${line:+ }$word
  done
  printf '%s\n' "$line"
}

# What a command does, for sentences: its words up to the first flag.
words() {
  local word line=
  for word in "$@"; do
    [[ $word != -* ]] || break
    line+=${line:+ }$word
  done
  printf '%s' "$line"
}

# Run a command and stop with its status if it fails; in a dry run print it.
run() {
  if [[ -n $LMLAB_TPU_DRY_RUN ]]; then
    quoted "$@"
    return
  fi
  local status=0
  "$@" || status=$?
  ((status == 0)) || fail "$status" "'$(words "$@")' failed with exit status $status."
}

# ask SUPPOSED COMMAND...: what a command prints, in `answer`; a dry run prints the command and goes on with SUPPOSED.
ask() {
  local supposed=$1 status=0
  shift
  if [[ -n $LMLAB_TPU_DRY_RUN ]]; then
    quoted "$@"
    printf '# supposing that it answers: %s\n' "${supposed//$'\n'/ }"
    answer=$supposed
    return
  fi
  answer=$("$@") || status=$?
  ((status == 0)) || say "'$(words "$@")' failed with exit status $status."
  return "$status"
}

# on WORKER COMMAND: leaves in the array `ssh` what runs COMMAND on worker 0 of the first slice, on another, or on
# `all` hosts of all slices.
on() {
  if ((LMLAB_TPU_SLICES == 1)); then
    ssh=(gcloud compute tpus tpu-vm ssh "$LMLAB_TPU_NAME" "${where[@]}" "--worker=$1" "--command=$2")
  else
    local node=0
    [[ $1 != all ]] || node=all
    ssh=(gcloud compute tpus queued-resources ssh "$LMLAB_TPU_NAME" "${where[@]}" "--node=$node" "--worker=$1"
      "--command=$2")
  fi
}

# look [lost]: is the slice `ready`, `waiting` or `lost`? In `slice`; the states that say so in `answer`. A queued
# resource stays ACTIVE for a while after one of its nodes is gone, so both are asked. A dry run supposes it ready.
look() {
  local nodes state i ready=0
  slice=waiting
  if [[ -n $LMLAB_TPU_QUEUED ]]; then
    state=ACTIVE
    [[ ${1:-} != lost ]] || state=SUSPENDED
    ask "$state" gcloud compute tpus queued-resources describe "$LMLAB_TPU_NAME" "${where[@]}" \
      "--format=value(state.state)" || return
    case $answer in
      ACTIVE) ;;
      SUSPENDED | FAILED)
        slice=lost
        return
        ;;
      *) return ;;
    esac
  fi
  state=READY
  [[ ${1:-} != lost ]] || state=PREEMPTED
  if ((LMLAB_TPU_SLICES == 1)); then
    nodes=(describe "$LMLAB_TPU_NAME")
  else
    nodes=(list "--filter=name~/$LMLAB_TPU_NAME-[0-9]+\$")
    state=$(for ((i = 0; i < LMLAB_TPU_SLICES; i++)); do echo "$state"; done)
  fi
  ask "$state" gcloud compute tpus tpu-vm "${nodes[@]}" "${where[@]}" "--format=value(state)" || return
  for state in $answer; do
    case $state in
      PREEMPTED | TERMINATED) slice=lost ;;
      READY) ready=$((ready + 1)) ;;
    esac
  done
  if [[ $slice != lost ]] && ((ready == LMLAB_TPU_SLICES)); then slice=ready; fi
}

pause() { [[ -n $LMLAB_TPU_DRY_RUN ]] || sleep "$LMLAB_TPU_EVERY"; }
