# shellcheck shell=bash
# The three kind clusters. Both members use the same pod and service CIDRs as the hub, which is the point of the lab.
# A node keeps its address for life: certificates and peers are made of it. `up` restores that or makes the cluster again.

CLUSTERS="hub c1 c2"
# shellcheck disable=SC2034 # hack/lab and other parts use it
MEMBERS="c1 c2"

cluster_network() { case $1 in hub) echo fleet-public ;; c1) echo fleet-site-1 ;; c2) echo fleet-site-2 ;; esac; }
cluster_nodes() { docker ps -a --filter "label=io.x-k8s.kind.cluster=fleet-$1" --format '{{.Names}}' | sort; }
cluster_kubectl() { kubectl --context "kind-fleet-$1" --request-timeout 10s "${@:2}"; }

cluster_up() {
  local name=$1
  if ! cluster_is_current "$name"; then
    echo "fleet-$name is of another node image than $(node_image); making it again"
    cluster_delete "$name"
  elif [ -n "$(cluster_nodes "$name")" ] && ! cluster_revive "$name"; then
    echo "fleet-$name does not come back; making it again"
    cluster_delete "$name"
  fi
  if [ -z "$(cluster_nodes "$name")" ]; then
    cluster_create "$name"
  fi
  pod_network_up "$name"
  within 180 cluster_ready "$name" || die "the nodes of fleet-$name are not Ready after 180 s"
  within 180 cluster_dns_ready "$name" || die "CoreDNS of fleet-$name is not ready after 180 s"
}

# True when every node the cluster has is made of the present node image, whose name changes with all it is made of. The
# images of the control plane are inside it, so no cluster can be brought to it in place.
cluster_is_current() {
  local node image made_of
  image=$(node_image)
  for node in $(cluster_nodes "$1"); do
    made_of=$(docker inspect -f '{{.Config.Image}}' "$node") || die "Docker does not say what image $node is made of"
    [ "$made_of" = "$image" ] || return 1
  done
}

# A cluster of our name in a network that is not ours belongs to somebody else.
cluster_claim() {
  local node
  for node in $(cluster_nodes "$1"); do
    [ -n "$(node_address "$node")" ] ||
      die "a kind cluster fleet-$1 exists that the lab did not make (node $node is not in network $(cluster_network "$1"))"
  done
}

# The address a node has, or will have when it runs, in the lab's network of its cluster; nothing if it is not in there.
node_address() {
  docker inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{.IPAddress}}{{"\n"}}{{end}}' "$1" |
    awk '$1 ~ /^fleet-(public|site-1|site-2)$/ {print ($2 == "" ? "stopped" : $2)}'
}

cluster_create() {
  local name=$1
  cluster_config "$name" >"$STATE/$name.yaml"
  # Only this kubeconfig is written to, never the user's.
  KIND_EXPERIMENTAL_DOCKER_NETWORK=$(cluster_network "$name") \
    kind create cluster --name "fleet-$name" --image "$(node_image)" --config "$STATE/$name.yaml" --kubeconfig "$KUBECONFIG"
  cluster_record "$name"
}

# The addresses are the lab's memory of a cluster, next to Docker's own.
cluster_record() {
  local node
  for node in $(cluster_nodes "$1"); do echo "$node $(node_address "$node")"; done >"$STATE/$1.addresses"
}

cluster_config() {
  local nodes='{role: control-plane}'
  [ "$1" != c1 ] || nodes+=', {role: worker}'
  # kind hands kubeadm v1beta3, where extraArgs is a map.
  cat <<YAML
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {disableDefaultCNI: true, kubeProxyMode: nftables, podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
featureGates: {MutatingAdmissionPolicy: true}
runtimeConfig: {admissionregistration.k8s.io/v1beta1: "true"}
nodes: [$nodes]
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  controllerManager: {extraArgs: {node-cidr-mask-size: "23"}}
- |
  kind: KubeletConfiguration
  maxPods: 300
YAML
}

# cluster_revive NAME: start what is stopped; true once every node is Ready at its own address.
cluster_revive() {
  local name=$1 since
  [ -s "$STATE/$name.addresses" ] || cluster_record "$name" # made with another FLEETBOARD_CACHE
  [ "$(cluster_nodes "$name")" = "$(cut -d' ' -f1 "$STATE/$name.addresses")" ] || return 1
  since=$(($(date +%s) - 40))
  if ! cluster_addressed "$name"; then
    since=$(date +%s)
    cluster_restart "$name"
    cluster_addressed "$name" || return 1
  fi
  cluster_kubeconfig "$name"
  within 120 cluster_ready "$name" "$since"
}

cluster_addressed() {
  local node address
  while read -r node address; do
    [ "$(node_address "$node")" = "$address" ] || return 1
  done <"$STATE/$1.addresses"
}

# Docker gives out the lowest free address, so that starting in the order of the addresses gives each node its own.
cluster_restart() {
  local node _
  # shellcheck disable=SC2046 # a list
  docker stop -t 10 $(cluster_nodes "$1")
  while read -r node _; do docker start "$node"; done < <(sort -k2V "$STATE/$1.addresses")
}

cluster_kubeconfig() {
  kubectl config get-contexts "kind-fleet-$1" >/dev/null 2>&1 ||
    kind export kubeconfig --name "fleet-$1" --kubeconfig "$KUBECONFIG"
}

# cluster_ready NAME [SINCE]: every node Ready by a heartbeat later than SINCE (seconds; default: the last 40). The
# condition alone still says Ready for a while after a node has gone.
cluster_ready() {
  local since=${2:-$(($(date +%s) - 40))} ready renewed
  ready=$(cluster_kubectl "$1" get nodes -o json 2>/dev/null |
    jq '[.items[].status.conditions[] | select(.type == "Ready" and .status == "True")] | length') || return 1
  renewed=$(cluster_kubectl "$1" get leases -n kube-node-lease -o json 2>/dev/null |
    jq --argjson since "$since" '[.items[].spec.renewTime | sub("\\..*"; "Z") | fromdateiso8601 | select(. >= $since)] | length') || return 1
  [ "$ready" = "$(cluster_size "$1")" ] && [ "$renewed" = "$ready" ]
}

cluster_size() { if [ "$1" = c1 ]; then echo 2; else echo 1; fi; }

cluster_dns_ready() {
  [ "$(cluster_kubectl "$1" get deployment coredns -n kube-system -o jsonpath='{.status.readyReplicas}' 2>/dev/null)" = 2 ]
}

cluster_delete() {
  kind delete cluster --name "fleet-$1" --kubeconfig "$KUBECONFIG"
  rm -f "$STATE/$1.addresses"
}

clusters_down() {
  local name
  for name in $CLUSTERS; do
    [ -n "$(cluster_nodes "$name")" ] || continue
    cluster_claim "$name"
    cluster_delete "$name"
  done
}
