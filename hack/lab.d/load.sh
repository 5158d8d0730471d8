# shellcheck shell=bash
# Puts local Docker images on the nodes that lack them: one `docker save`, then the nodes import side by side.

lab_load() {
  docker_answers || die "no Docker daemon answers; run 'hack/lab up'"
  local image
  for image in "$@"; do has_image "$image" || die "there is no local image \"$image\"; docker images lists those there are"; done
  local name nodes
  nodes=$(for name in $CLUSTERS; do cluster_nodes "$name"; done | xargs)
  [ -n "$nodes" ] || die "there are no clusters; run 'hack/lab up'"
  load_nodes "$nodes" "$@"
}

load_cluster() { load_nodes "$(cluster_nodes "$1")" "${@:2}"; }

# load_nodes "NODE..." IMAGE...
load_nodes() {
  local nodes=$1 image node archive lacking=() pids=() pid failed=0
  shift
  for image in "$@"; do
    lacking=()
    for node in $nodes; do node_has_image "$node" "$image" || lacking+=("$node"); done
    if [ "${#lacking[@]}" = 0 ]; then
      echo "$image is on every node"
      continue
    fi
    archive=$(mktemp "$SCRATCH/load.XXXXXX")
    docker save -o "$archive" "$image"
    pids=()
    for node in "${lacking[@]}"; do
      docker exec -i "$node" ctr -n k8s.io images import --digests --snapshotter overlayfs - <"$archive" >/dev/null &
      pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    rm -f "$archive"
    [ "$failed" = 0 ] || die "$image could not be imported on every node of: ${lacking[*]}"
    echo "$image loaded on ${lacking[*]}"
  done
}

# The node's containerd lists an image by its name and by its id; both lead to one digest when the name is that very image.
node_has_image() {
  local id
  id=$(docker image inspect -f '{{.Id}}' "$2")
  docker exec "$1" ctr -n k8s.io images ls | awk -v name="$(full_name "$2")" -v id="$id" '
    $1 == name {named = $3} $1 == id {same = $3} END {exit !(named != "" && (named == same || named == id))}'
}

# The name as containerd writes it: with registry and tag.
full_name() {
  local name=$1 first=${1%%/*}
  [[ ${name##*/} == *:* ]] || name+=:latest
  if [[ $name != */* ]]; then
    echo "docker.io/library/$name"
  elif [[ $first == *[.:]* || $first == localhost ]]; then
    echo "$name"
  else
    echo "docker.io/$name"
  fi
}
