# shellcheck shell=bash
# containerd and dockerd, where no Docker daemon answers. A daemon that answers is used as it is, and never stopped.

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
containerd_answers() { timeout 10 ctr version >/dev/null 2>&1; }

daemons_start() {
  if docker_answers; then return; fi
  if [ -d /run/systemd/system ] && systemctl cat docker.service >/dev/null 2>&1; then
    systemctl start docker.service
    echo systemd >"$STATE/docker.started"
  else
    containerd_answers || daemon_spawn containerd containerd
    within 30 containerd_answers || die "containerd does not answer after 30 s; see $LOGS/containerd.log"
    daemon_config >"$STATE/daemon.json"
    daemon_spawn dockerd dockerd --containerd /run/containerd/containerd.sock --config-file "$STATE/daemon.json"
  fi
  within 60 docker_answers || die "dockerd does not answer after 60 s; see $LOGS/dockerd.log"
}

# A session of its own: the daemon outlives the shell that ran `up`. The lab's lock (9) is not for it to hold.
daemon_spawn() {
  local name=$1
  shift
  # It outlives its caller, so it must keep nothing of the caller's open: a lock would never be free again.
  # shellcheck disable=SC2016 # for that shell
  setsid --fork bash -c '
    for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done
    echo $$ >"$1"; shift; exec "$@"' _ "$STATE/$name.pid" "$@" >>"$LOGS/$name.log" 2>&1 </dev/null
}

# The machine's own settings (mirrors, proxies, data folder) with ours on top; its file is never written to.
daemon_config() {
  local own='{}' machine='{}'
  if lacks_cap_sys_resource; then
    install -m755 "$HERE/runc-nosr" "$STATE/runc-nosr"
    own='{"default-runtime": "nosr", "runtimes": {"nosr": {"path": "'$STATE'/runc-nosr"}}}'
  fi
  [ ! -s /etc/docker/daemon.json ] || machine=$(cat /etc/docker/daemon.json)
  jq -n --argjson machine "$machine" --argjson own "$own" '$machine * $own'
}

# Without it `docker run --privileged` fails, since runc asks for every capability.
lacks_cap_sys_resource() {
  local bounding
  bounding=$(awk '/^CapBnd/ {print $2}' /proc/self/status)
  (((16#$bounding >> 24 & 1) == 0))
}

daemons_stop() {
  if [ -e "$STATE/docker.started" ] || [ -e "$STATE/dockerd.pid" ]; then
    ! others_run || die "other containers are running, so the Docker daemon stays; stop them and run 'hack/lab down' again"
  fi
  if [ -e "$STATE/docker.started" ]; then
    systemctl stop docker.socket docker.service
    rm -f "$STATE/docker.started"
  fi
  daemon_kill dockerd
  daemon_kill containerd
}

others_run() { docker_answers && [ -n "$(docker ps -q)" ]; }

# By the pid we wrote, and only if that process is still the daemon.
daemon_kill() {
  local name=$1 pid
  pid=$(cat "$STATE/$name.pid" 2>/dev/null) || return 0
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ]; then
    kill "$pid"
    within 60 process_gone "$pid" || die "$name (pid $pid) does not stop"
  fi
  rm -f "$STATE/$name.pid"
}

process_gone() { [ ! -e "/proc/$1" ]; }
