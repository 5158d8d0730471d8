# shellcheck shell=bash
# Multus in both members, with upstream's manifests and limits: thick (a daemon and a shim) or thin (one binary).

multus_official_image() { echo "ghcr.io/k8snetworkplumbingwg/multus-cni:v$MULTUS$([ "$MULTUS_KIND" = thin ] || echo -thick)"; }
multus_image_name() {
  if [ "$MULTUS_SOURCE" = official ]; then
    multus_official_image
  else
    echo "fleetboard-lab/multus:v$MULTUS-$({
      declare -f multus_build multus_thin_entrypoint go_workspace go_compile
      cat "$HERE/multus/Dockerfile"
    } | short_hash)"
  fi
}

multus_image() {
  if has_image "$(multus_image_name)"; then return; fi
  if [ "$MULTUS_SOURCE" = official ]; then
    docker pull "$(multus_image_name)"
    return
  fi
  local context=$SCRATCH/multus-image
  rm -rf "$context"
  mkdir -p "$context"
  cp "$PARTS"/{multus,multus-daemon,multus-shim,passthru,install_multus,thin_entrypoint} "$context/"
  docker build -t "$(multus_image_name)" -f "$HERE/multus/Dockerfile" --build-arg "BASE=$BASE_IMAGE" "$context"
  rm -rf "$context"
}

multus_up() {
  local name=$1
  multus_variant_clear "$name"
  load_cluster "$name" "$(multus_image_name)"
  multus_manifest | cluster_kubectl "$name" apply -f -
  within 180 multus_ready "$name" || die "Multus in fleet-$name is not ready after 180 s"
}

multus_manifest() {
  sed "s#MULTUS_IMAGE#$(multus_image_name)#" "$HERE/multus/$MULTUS_KIND.yaml"
}

# The other variant, if it is there, goes first: its configuration on the nodes would stay the one in force.
multus_variant_clear() {
  local name=$1 node
  case "$MULTUS_KIND $(multus_variant "$name")" in "thick thick" | "thin thin" | *" none") return ;; esac
  cluster_kubectl "$name" delete --timeout=60s --wait daemonset/kube-multus-ds -n kube-system
  for node in $(cluster_nodes "$name"); do docker exec "$node" rm -f /etc/cni/net.d/00-multus.conf; done
}

multus_variant() {
  case $(cluster_kubectl "$1" get daemonset kube-multus-ds -n kube-system --ignore-not-found \
    -o jsonpath='{.spec.template.spec.containers[0].command[0]}') in
    */multus-daemon) echo thick ;;
    */thin_entrypoint) echo thin ;;
    *) echo none ;;
  esac
}

# Ready is: the new pods run on every node, and the kubelet sees Multus' configuration first.
multus_ready() {
  local name=$1 node
  cluster_kubectl "$name" get daemonset kube-multus-ds -n kube-system -o json 2>/dev/null | jq -e --argjson size "$(cluster_size "$name")" \
    '.status.observedGeneration == .metadata.generation and .status.updatedNumberScheduled == $size and .status.numberReady == $size' \
    >/dev/null || return 1
  for node in $(cluster_nodes "$name"); do
    [ "$(docker exec "$node" sh -c 'ls /etc/cni/net.d/*.conf* | head -n1' 2>/dev/null)" = /etc/cni/net.d/00-multus.conf ] || return 1
  done
}
