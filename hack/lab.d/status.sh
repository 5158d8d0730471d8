# shellcheck shell=bash
# One screen about the lab; the exit code says whether all of it is well.

STATUS_FAILED=0

lab_status() {
  if ! docker_answers; then
    status_line FAIL docker "no daemon answers; run 'hack/lab up'"
    exit 1
  fi
  status_line ok docker "$(docker version --format '{{.Server.Version}}')$(status_owner)"
  sources_read
  status_networks
  local name
  for name in $CLUSTERS; do status_cluster "$name"; done
  for name in $MEMBERS; do status_multus "$name"; done
  status_image "node image" "$(node_image)"
  status_image "base image" "$BASE_IMAGE"
  status_image "Multus image" "$(multus_image_name)"
  [ "$STATUS_FAILED" = 0 ]
}

# status_line ok|FAIL WHAT DETAIL
status_line() {
  printf '  %-4s  %-14s %s\n' "$@"
  [ "$1" = ok ] || STATUS_FAILED=1
}

status_owner() {
  if [ -e "$STATE/dockerd.pid" ]; then echo ", started by the lab (pid $(cat "$STATE/dockerd.pid"))"; fi
}

status_networks() {
  local entry name
  for entry in $NETWORKS; do
    name=${entry%:*}
    if network_is_ours "$name"; then
      status_line ok "$name" "$(network_subnet "$name"), MTU ${entry#*:}"
    else
      status_line FAIL "$name" "no such network of the lab's"
    fi
  done
  if network_is_ours fleet-public && rules_present; then
    status_line ok rules "members open connections to the hub, nothing to a member"
  else
    status_line FAIL rules "missing in DOCKER-USER or raw PREROUTING; 'hack/lab up' puts them back"
  fi
}

status_cluster() {
  local name=$1 nodes node
  nodes=$(docker ps --filter "label=io.x-k8s.kind.cluster=fleet-$name" --format '{{.Names}}' | sort)
  if ! cluster_is_current "$name"; then
    status_line FAIL "fleet-$name" "made of another node image; 'hack/lab up' makes it again"
  elif [ -n "$nodes" ] && cluster_ready "$name" && cluster_dns_ready "$name"; then
    status_line ok "fleet-$name" "Ready: $(for node in $nodes; do echo "${node#"fleet-$name-"} $(node_address "$node")"; done | xargs | sed 's/\([0-9]\) /\1, /g')"
  else
    status_line FAIL "fleet-$name" "running nodes: $(xargs <<<"${nodes:-none}"); not all Ready with DNS"
  fi
}

status_multus() {
  local variant
  variant=$(multus_variant "$1" 2>/dev/null || echo unknown)
  if multus_ready "$1"; then
    status_line ok "Multus $1" "$variant, first in /etc/cni/net.d of every node"
  else
    status_line FAIL "Multus $1" "$variant, not ready"
  fi
}

status_image() {
  if has_image "$2"; then
    status_line ok "$1" "$2, $(docker image inspect -f '{{.Size}}' "$2" | awk '{printf "%d MB", $1 / 1e6}')"
  else
    status_line FAIL "$1" "$2 is missing"
  fi
}
