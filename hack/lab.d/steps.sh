# shellcheck shell=bash
# Runs the named steps, alone or side by side: one line each with its seconds, its output in a log, and on failure the end
# of that log. Each step is a process group, so that an interruption of the lab leaves none behind.

declare -A STEP_PID=() STEP_TITLE=() STEP_START=()

say() { echo "lab: $*"; }
die() {
  echo "lab: $*" >&2
  exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "this needs root, for Debian packages, Docker and network rules; try sudo"; }

# Two runs of `up` at once would undo each other.
begin_exclusive() {
  exec 9>"$CACHE/lab.lock"
  flock -w 5 9 || die "another hack/lab is at work on $CACHE; wait for it to end"
  trap steps_abort EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

steps_abort() {
  local name
  for name in "${!STEP_PID[@]}"; do
    step_ended "$name" || kill -TERM -- "-${STEP_PID[$name]}" 2>/dev/null || true
  done
}

# begin NAME TITLE COMMAND...: start a step in the background.
begin() {
  local name=$1
  STEP_TITLE[$name]=$2
  STEP_START[$name]=$SECONDS
  shift 2
  rm -f "$LOGS/$name.ended"
  set -m # a process group of its own
  (
    set -euo pipefail
    trap 'echo "$? $((SECONDS - STEP_START[$name]))" >"$LOGS/$name.ended"' EXIT
    "$@"
  ) >"$LOGS/$name.log" 2>&1 </dev/null &
  STEP_PID[$name]=$!
  set +m
}

# finish NAME: wait for a step that was begun, and print its line.
finish() {
  local name=$1 beat=$((SECONDS + 30)) status=killed seconds
  until step_ended "$name"; do
    if ((SECONDS >= beat)); then
      printf '  ..  %4ss  %s\n' "$((SECONDS - STEP_START[$name]))" "$(steps_running)"
      beat=$((SECONDS + 60))
    fi
    sleep 0.1
  done
  [ ! -s "$LOGS/$name.ended" ] || read -r status seconds <"$LOGS/$name.ended"
  [ "$status" = 0 ] || step_failed "$name"
  unset "STEP_PID[$name]"
  printf '  ok  %4ss  %s\n' "$seconds" "${STEP_TITLE[$name]}"
}

# A step writes its status and its seconds before it ends. `wait` can't tell: it is asked minutes later, when a build has
# used up all process ids, and the shell forgets the status of a child whose id another of its children gets.
step_ended() { [ -s "$LOGS/$1.ended" ] || ! kill -0 "${STEP_PID[$1]}" 2>/dev/null; }

step() {
  begin "$@"
  finish "$1"
}

steps_running() {
  local name names=()
  for name in "${!STEP_PID[@]}"; do
    step_ended "$name" || names+=("${STEP_TITLE[$name]}")
  done
  local list
  list=$(printf ', %s' "${names[@]}")
  echo "${list#, }"
}

step_failed() {
  local name=$1
  unset "STEP_PID[$name]"
  {
    echo "  FAILED     ${STEP_TITLE[$name]}; the end of its log:"
    tail -n 20 "$LOGS/$name.log" | sed 's/^/    | /'
    echo "lab: ${STEP_TITLE[$name]} failed; the whole log is $LOGS/$name.log. Run the same command again to go on from here."
  } >&2
  exit 1
}

# within SECONDS COMMAND...: try until it succeeds, or fail when the time is up.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.5
  done
}
