# shellcheck shell=bash
# The programs: tools for people (bin/: kubectl, kind, helm) and parts for the node and Multus images (parts/).
# Official releases are downloaded and checked against their published sums; the rest is built from Go modules.

# Each line of steps is skipped in a moment when its stamp is there.
build_binaries() {
  if [ "$TOOLS_SOURCE" = official ]; then
    step tools "kubectl, kind, helm (releases)" tools_download
  fi
  if [ "$TOOLS_SOURCE$NODE_SOURCE$MULTUS_SOURCE" = officialofficialofficial ]; then return; fi
  step go "Go" go_install
  [ ! -x "$CACHE/go/bin/go" ] || PATH=$CACHE/go/bin:$PATH
  if [ "$NODE_SOURCE" = build ] || [ "$TOOLS_SOURCE" = build ]; then
    step kubernetes "Kubernetes $KUBERNETES from source" kubernetes_build
  fi
  if [ "$NODE_SOURCE" = build ]; then
    step etcd "etcd $ETCD from source" built etcd "$ETCD" etcd_build
    step coredns "CoreDNS $COREDNS from source" built coredns "$COREDNS" coredns_build
    step plugins "CNI plugins $CNI_PLUGINS from source" built plugins "$CNI_PLUGINS" plugins_build
  fi
  [ "$MULTUS_SOURCE" = official ] || step multus "Multus $MULTUS from source" built multus "$MULTUS" multus_build
  if [ "$TOOLS_SOURCE" = build ]; then
    step kind "kind $KIND from source" built kind "$KIND" kind_build
    step helm "helm $HELM from source" built helm "$HELM" helm_build
  fi
}

# built NAME VERSION COMMAND: run the build unless this version is there.
built() {
  if stamped "$1" "$2"; then return; fi
  rm -f "$STATE/stamp-$1"
  # Not "$3 && stamp": within a condition the shell would no longer stop at errors.
  "$3"
  stamp "$1" "$2"
}

tools_download() { built tools "$KUBERNETES $KIND $HELM" tools_fetch; }

tools_fetch() {
  local work=$SCRATCH/releases
  rm -rf "$work"
  mkdir -p "$work"
  fetch "$(kubectl_url)" sha256 "$work/kubectl"
  fetch "$(kind_url)" sha256sum "$work/kind"
  fetch "$(helm_url)" sha256sum "$work/helm.tar.gz"
  tar -C "$work" --strip-components=1 -xzf "$work/helm.tar.gz" "linux-$ARCH/helm"
  install -m755 "$work"/{kubectl,kind,helm} "$BIN/"
}

# fetch URL SUFFIX FILE: download, and compare with the sum published beside it.
fetch() {
  local sum
  curl -fsSL --retry 3 --max-time 900 -o "$3" "$1"
  sum=$(curl -fsSL --retry 3 --max-time 60 "$1.$2" | awk '{print $1}')
  echo "$sum  $3" | sha256sum --check --quiet
}

# The control plane is needed for a node image alone; kubectl for people in any case.
kubernetes_build() {
  local commands=kubectl
  [ "$NODE_SOURCE" = official ] || commands="kubectl kubeadm kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy"
  if ! stamped kubernetes "$KUBERNETES $commands"; then
    # shellcheck disable=SC2086 # a list
    kubernetes_compile $commands
    stamp kubernetes "$KUBERNETES $commands"
  fi
  [ "$TOOLS_SOURCE" = official ] || tool_publish kubectl
}

# k8s.io/kubernetes replaces its staging modules by folders of its repository; the same versions are published as modules.
kubernetes_compile() {
  local module=k8s.io/kubernetes version=k8s.io/component-base/version work=$SCRATCH/kubernetes folder ldflags
  folder=$(go_module_dir "$module@v$KUBERNETES")
  rm -rf "$work"
  mkdir -p "$work"
  {
    printf 'module lab/kubernetes\ngo 1.24.0\ngodebug default=go1.24\nrequire %s v%s\n' "$module" "$KUBERNETES"
    go_replaces "$folder" | awk -v v="v0.${KUBERNETES#1.}" '{print "replace", $2, "=>", $2, v}'
  } >"$work/go.mod"
  go_require "$work" "${@/#/$module/cmd/}"
  ldflags="-s -w -X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES")"
  # One build of all: the linker of one runs beside the compiler of the next.
  go -C "$work" build -trimpath -ldflags "$ldflags" -o "$PARTS/" "${@/#/$module/cmd/}"
}

kube_proxy_build() { kubernetes_compile kube-proxy; }

# For people: the same file, under a name on the PATH.
tool_publish() { ln -sfn "../parts/$1" "$BIN/$1"; }

etcd_build() { go_build etcd "go.etcd.io/etcd/server/v3@v$ETCD" "" etcd=go.etcd.io/etcd/server/v3; }

coredns_build() { go_build coredns "github.com/coredns/coredns@v$COREDNS" "" coredns=github.com/coredns/coredns; }

plugins_build() {
  local module=github.com/containernetworking/plugins
  go_build plugins "$module@v$CNI_PLUGINS" "-X $module/pkg/utils/buildversion.BuildVersion=v$CNI_PLUGINS" \
    bridge=$module/plugins/main/bridge ptp=$module/plugins/main/ptp loopback=$module/plugins/main/loopback \
    host-local=$module/plugins/ipam/host-local portmap=$module/plugins/meta/portmap
}

# The tests' runtime: libcni as containerd and Multus have it, behind a command line.
cnitool_build() {
  local module=github.com/containernetworking/cni
  go_build cnitool "$module@v$CNITOOL" "" cnitool=$module/cnitool
}

# The module's path is a vanity one that serves a named version; a list of its versions it does not serve.
multus_build() {
  local module=gopkg.in/k8snetworkplumbingwg/multus-cni.v4
  go_workspace multus "$module@v$MULTUS"
  multus_thin_entrypoint "$module@v$MULTUS"
  go_compile multus "-X $module/pkg/multus.version=v$MULTUS" \
    multus=$module/cmd/multus multus-daemon=$module/cmd/multus-daemon multus-shim=$module/cmd/multus-shim \
    passthru=$module/cmd/passthru-cni install_multus=$module/cmd/install_multus thin_entrypoint=lab/multus/thin_entrypoint
}

# The thin kind writes its API server as https://[10.96.0.1]:443, which the net/url of newer Go refuses: brackets are for
# IPv6 alone. We build a copy of that one file without them.
multus_thin_entrypoint() {
  local copy=$SCRATCH/multus/thin_entrypoint
  mkdir "$copy"
  sed 's#%s://\[%s\]:%s#%s://%s:%s#' "$(go_module_dir "$1")/cmd/thin_entrypoint/main.go" >"$copy/main.go"
}

kind_build() {
  go_build kind "sigs.k8s.io/kind@v$KIND" "" kind=sigs.k8s.io/kind
  tool_publish kind
}

helm_build() {
  go_build helm "helm.sh/helm/v3@v$HELM" "-X helm.sh/helm/v3/internal/version.version=v$HELM" helm=helm.sh/helm/v3/cmd/helm
  tool_publish helm
}
