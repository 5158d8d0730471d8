# shellcheck shell=bash
# One program of the lab, for those who need no lab: the benches and the check of the charts.

# lab_tool NAME: print the path of a program; it is downloaded or built when it isn't there.
lab_tool() {
  case $1 in
    kubectl | helm | kind) [ -x "$BIN/$1" ] || tool_make "$1" "tool_$1" ;;
    bridge | host-local) [ -x "$PARTS/$1" ] || tool_make "$1" built plugins "$CNI_PLUGINS" plugins_build ;;
    cnitool) [ -x "$PARTS/$1" ] || tool_make "$1" built cnitool "$CNITOOL" cnitool_build ;;
    coredns) [ -x "$PARTS/$1" ] || tool_make "$1" built coredns "$COREDNS" coredns_build ;;
    kube-proxy) [ -x "$PARTS/$1" ] || tool_make "$1" built kube-proxy "$KUBERNETES" kube_proxy_build ;;
    *) die "no tool \"$1\"; expected kubectl, helm, kind, bridge, host-local, cnitool, coredns or kube-proxy" ;;
  esac
  if [ -x "$BIN/$1" ]; then echo "$BIN/$1"; else echo "$PARTS/$1"; fi
}

# tool_make NAME COMMAND...: stdout is the path's alone.
tool_make() {
  local name=$1
  shift
  check_settings
  need_root
  {
    begin_exclusive
    step packages "Debian packages" tool_packages
    if [ -s "$STATE/sources" ]; then
      sources_read
    else
      TOOLS_SOURCE=$(source_of kubectl can_download "$(kubectl_url)" 2>>"$LOGS/tool.log")
    fi
    if [ "$TOOLS_SOURCE" != official ] || [ "$1" = built ]; then
      step go "Go" go_install
      [ ! -x "$CACHE/go/bin/go" ] || PATH=$CACHE/go/bin:$PATH
    fi
    step tool "$name" "$@"
  } >&2
}

tool_packages() {
  if command -v jq curl update-ca-certificates >/dev/null; then return; fi
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends jq curl ca-certificates
}

# Without a node image of our own making there is no need for its other commands.
tool_kubectl() { if [ "$TOOLS_SOURCE" = official ]; then tools_download; else NODE_SOURCE=official kubernetes_build; fi; }
tool_kind() { if [ "$TOOLS_SOURCE" = official ]; then tools_download; else built kind "$KIND" kind_build; fi; }
tool_helm() { if [ "$TOOLS_SOURCE" = official ]; then tools_download; else built helm "$HELM" helm_build; fi; }
