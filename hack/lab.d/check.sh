# shellcheck shell=bash
# Proves what the lab promises with pods of its own, in a namespace of its own, and takes them away again.

CHECK=fleetboard-lab-check
CHECK_FAILED=0

lab_check() {
  docker_answers || die "no Docker daemon answers; run 'hack/lab up'"
  trap check_clear EXIT
  check_pods
  local name hub c1 c2
  hub=$(node_address fleet-hub-control-plane)
  c1=$(node_address fleet-c1-control-plane)
  c2=$(node_address fleet-c2-control-plane)
  for name in $CLUSTERS; do
    expect "fleet-$name: a pod resolves names" check_exec "$name" getent hosts kubernetes.default.svc.cluster.local
    expect "fleet-$name: MutatingAdmissionPolicy is served" check_admission_api "$name"
  done
  for name in $MEMBERS; do
    expect "fleet-$name: a pod reaches the hub" check_reaches "$name" "$hub"
    expect "fleet-$name: the attachment made net1" check_exec "$name" test -e /sys/class/net/net1
  done
  expect "fleet-c1: pods on different nodes reach each other" check_between_nodes
  expect "fleet-hub: a pod can't reach fleet-c1" refuted check_reaches hub "$c1"
  expect "fleet-hub: a pod can't reach fleet-c2" refuted check_reaches hub "$c2"
  expect "fleet-c1: a pod can't reach fleet-c2" refuted check_reaches c1 "$c2"
  expect "fleet-c2: a pod can't reach fleet-c1" refuted check_reaches c2 "$c1"
  expect "fleet-c2: a pod's MTU is 1450" check_exec c2 grep -qx 1450 /sys/class/net/eth0/mtu
  [ "$CHECK_FAILED" = 0 ]
}

# expect SENTENCE COMMAND...
expect() {
  if "${@:2}" >/dev/null 2>&1; then
    echo "  ok    $1"
  else
    echo "  FAIL  $1"
    CHECK_FAILED=1
  fi
}

refuted() { ! "$@"; }

# One pod a node; in the members with a second interface.
check_pods() {
  local name node
  load_nodes "$(for name in $CLUSTERS; do cluster_nodes "$name"; done | xargs)" "$BASE_IMAGE" >/dev/null
  for name in $CLUSTERS; do
    # What an earlier check left may still be going away.
    cluster_kubectl "$name" delete namespace "$CHECK" --ignore-not-found --timeout=90s --request-timeout 100s >/dev/null
    for node in $(cluster_nodes "$name"); do check_manifest "$name" "$node"; done | cluster_kubectl "$name" apply -f - >/dev/null
  done
  for name in $CLUSTERS; do
    cluster_kubectl "$name" wait --timeout=120s --for=condition=Ready pod --all -n "$CHECK" --request-timeout 130s >/dev/null ||
      die "the pods of the check do not start in fleet-$name; kubectl --context kind-fleet-$name -n $CHECK describe pods"
  done
}

check_manifest() {
  local annotations='{}'
  cat <<YAML
apiVersion: v1
kind: Namespace
metadata: {name: $CHECK, labels: {fleetboard.io/attach: "false"}}
YAML
  if [ "$1" != hub ]; then
    annotations='{k8s.v1.cni.cncf.io/networks: second}'
    cat <<YAML
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: second, namespace: $CHECK}
spec: {config: '{"cniVersion": "0.3.1", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}}'}
YAML
  fi
  cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: {name: $2, namespace: $CHECK, annotations: $annotations}
spec:
  nodeName: $2
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers:
  - {name: shell, image: "$BASE_IMAGE", imagePullPolicy: Never, command: [sleep, infinity]}
---
YAML
}

# check_exec CLUSTER COMMAND...: in the pod on the cluster's control plane
check_exec() { cluster_kubectl "$1" exec -n "$CHECK" "fleet-$1-control-plane" -- "${@:2}"; }

# The API server's port answers on every control plane.
check_reaches() { check_exec "$1" timeout 4 bash -c "</dev/tcp/$2/6443"; }

check_admission_api() {
  cluster_kubectl "$1" get --raw /apis/admissionregistration.k8s.io/v1beta1 |
    jq -e 'any(.resources[]; .name == "mutatingadmissionpolicies")'
}

check_between_nodes() {
  local address
  address=$(cluster_kubectl c1 get pod fleet-c1-worker -n "$CHECK" -o jsonpath='{.status.podIP}')
  # Nothing listens there: a refusal comes from the pod itself, a timeout from nobody.
  check_exec c1 bash -c "timeout 4 bash -c '</dev/tcp/$address/9'; test \$? = 1"
}

check_clear() {
  local name
  for name in $CLUSTERS; do
    cluster_kubectl "$name" delete namespace "$CHECK" --ignore-not-found --wait=false >/dev/null 2>&1 || true
  done
}
