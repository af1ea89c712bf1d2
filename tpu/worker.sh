#!/usr/bin/env bash
# One host of a TPU slice: what the launcher asks of it over ssh.
#
#   setup | push ARCHIVE | start WORKERS WORD... | status | stop | kill | log LINES [follow]
#
# Each may be asked twice, since gcloud repeats a command whose connection was lost. The run does not
# depend on the connection. No exit status is 255, which gcloud takes for a lost connection.
set -euo pipefail

code=$HOME/lmjax venv=$HOME/lmjax-venv run=$HOME/lmjax-run
export PATH=$venv/bin:$HOME/.local/bin:$PATH
mkdir -p "$run"

say() { printf 'lmjax-worker %s %s\n' "$HOSTNAME" "$*"; }

# The run holds this lock until its last process has ended, however it ends; so no process id of a
# dead run, nor one from before a reboot, can be taken for a living one.
running() { ! flock --nonblock "$run/lock" true; }

refuse() {
  say "$*"
  exit 3
}

case ${1:-} in
setup)
  # The image's own Python is older than lmjax needs; uv brings one.
  python3 -m pip install --user --quiet uv
  uv python install --quiet 3.12
  say "set up"
  ;;
push)
  if running; then refuse "a run is going on; stop it first"; fi
  rm -rf "$code.new"
  mkdir "$code.new"
  tar -xzf "$HOME/$2" -C "$code.new"
  rm -rf "$code"
  mv "$code.new" "$code"
  if [ ! -d "$venv" ]; then uv venv --quiet --python 3.12 "$venv"; fi
  cd "$code" # whose pyproject.toml constrains the versions
  # gcsfs: without it nothing opens gs:// paths.
  uv pip install --quiet --python "$venv/bin/python" --editable . "jax[tpu]" gcsfs
  say "has $2"
  ;;
start)
  # How many processes the run must find; each lmjax asserts it (lmjax/hosts.py).
  export LMJAX_PROCESSES=$2
  shift 2
  if [ ! -d "$code" ]; then refuse "has no code; push first"; fi
  words=$(printf '%q ' "$@")
  exec 9>"$run/lock"
  if ! flock --nonblock 9; then
    if [ "$(cat "$run/command")" != "$words" ]; then refuse "another run is going on; stop it first"; fi
    say "running" # asked twice
    exit 0
  fi
  rm -f "$run/exit" "$run/pid"
  printf '%s' "$words" >"$run/command"
  cd "$code"
  # Without it, a TPU that cannot be used is passed over for the CPU without a word.
  export JAX_PLATFORMS=tpu,cpu
  setsid nohup bash "$HOME/lmjax-worker.sh" supervise "$@" </dev/null >>"$run/log" 2>&1 &
  say "started"
  ;;
supervise) # not for the launcher; holds the lock, by descriptor 9
  shift
  echo "--- $(date -u '+%Y-%m-%d %H:%M:%S') UTC: $(cat "$run/command")"
  status=0
  "$@" &
  echo $! >"$run/pid"
  wait $! || status=$?
  echo "--- $(date -u '+%Y-%m-%d %H:%M:%S') UTC: exit status $status"
  echo "$status" >"$run/exit.new"
  mv "$run/exit.new" "$run/exit"
  ;;
status)
  if [ -f "$run/exit" ]; then
    say "exit $(cat "$run/exit")"
  elif running; then
    say "running"
  elif [ -f "$run/command" ]; then
    say "lost" # by a reboot, or for want of memory
  else
    say "idle"
  fi
  ;;
stop)
  # lmjax saves at the next step's edge and ends with 143.
  if running && [ -f "$run/pid" ]; then kill -TERM "$(cat "$run/pid")" || true; fi
  say "told to stop"
  ;;
kill)
  # For a run that does not hear SIGTERM any more: frozen, or waiting in the kernel. Its place is
  # free only when its last process has let go of the lock.
  if running && [ -f "$run/pid" ]; then kill -KILL "$(cat "$run/pid")" || true; fi
  if ! flock --wait 20 "$run/lock" true; then refuse "could not be killed"; fi
  say "has no run"
  ;;
log)
  if [ ! -f "$run/log" ]; then refuse "has no log yet"; fi
  follow=()
  if [ "${3:-}" = follow ]; then follow=(-F); fi
  tail -n "$2" "${follow[@]}" "$run/log" | sed -u "s/^/$HOSTNAME: /"
  ;;
*)
  refuse "knows setup, push, start, status, stop, kill and log, not '${1:-}'"
  ;;
esac
