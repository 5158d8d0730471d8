# shellcheck shell=bash
# The clusters' own pod network: ptp with host-local addresses out of each node's podCIDR, and a route to every other
# node's. kind's own (kindnet) is an image of its own; these plugins are in every node image, pulled or built.

pod_network_up() {
  local name=$1 table node cidr _
  within 60 pod_cidrs_known "$name" || die "the nodes of fleet-$name have no podCIDR after 60 s"
  table=$(pod_cidrs "$name")
  while read -r node cidr _; do
    pod_network_config "$cidr" "$(docker exec "$node" cat /sys/class/net/eth0/mtu </dev/null)" |
      docker exec -i "$node" sh -c 'cat >/etc/cni/net.d/10-lab.conflist.new && mv /etc/cni/net.d/10-lab.conflist.new /etc/cni/net.d/10-lab.conflist'
    # A unit, so that the routes are back when the node's container is restarted.
    pod_routes_unit "$node" "$table" |
      docker exec -i "$node" sh -c 'cat >/etc/systemd/system/lab-routes.service && systemctl daemon-reload && systemctl enable -q lab-routes.service && systemctl restart lab-routes.service'
  done <<<"$table"
}

# node, podCIDR, address: one line a node
pod_cidrs() {
  cluster_kubectl "$1" get nodes -o json | jq -r '.items[]
    | [.metadata.name, .spec.podCIDR, (.status.addresses[] | select(.type == "InternalIP").address)] | @tsv'
}

pod_cidrs_known() {
  [ "$(pod_cidrs "$1" 2>/dev/null | awk 'NF == 3' | wc -l)" = "$(cluster_size "$1")" ]
}

# pod_network_config CIDR MTU
pod_network_config() {
  jq -n --arg cidr "$1" --argjson mtu "$2" '{
    cniVersion: "0.4.0", name: "lab", plugins: [
      {type: "ptp", ipMasq: true, mtu: $mtu, ipam: {
        type: "host-local", dataDir: "/run/cni-ipam-state", routes: [{dst: "0.0.0.0/0"}], ranges: [[{subnet: $cidr}]]}},
      {type: "portmap", capabilities: {portMappings: true}}]}'
}

# pod_routes_unit NODE TABLE: the routes to the pods of all nodes but NODE
pod_routes_unit() {
  local other cidr address
  printf '[Unit]\nDescription=Routes to the pods of the other nodes\nAfter=network.target\nBefore=kubelet.service\n'
  printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n'
  while read -r other cidr address; do
    [ "$other" = "$1" ] || echo "ExecStart=/sbin/ip route replace $cidr via $address"
  done <<<"$2"
  printf '[Install]\nWantedBy=multi-user.target\n'
}
