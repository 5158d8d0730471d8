# shellcheck shell=bash disable=SC2034 # hack/lab and other parts use the *_SOURCE answers
# Decides for each thing whether it is pulled or built: official where a registry or release server answers, else built
# from Debian packages and Go modules. The answer is kept, so that a refusal is not asked for again.

NODE_SOURCE=build MULTUS_SOURCE=build TOOLS_SOURCE=build

sources_choose() {
  local key="$SOURCE_WANTED $OFFICIAL_NODE $KUBERNETES $KIND $HELM $MULTUS $MULTUS_KIND"
  if stamped sources "$key" && [ -s "$STATE/sources" ]; then return; fi
  NODE_SOURCE=$(source_of "$OFFICIAL_NODE" can_pull "$OFFICIAL_NODE")
  MULTUS_SOURCE=$(source_of Multus can_pull "$(multus_official_image)")
  TOOLS_SOURCE=$(source_of kubectl can_download "$(kubectl_url)")
  declare -p NODE_SOURCE MULTUS_SOURCE TOOLS_SOURCE | sed 's/^declare -- //' | tee "$STATE/sources.new"
  mv "$STATE/sources.new" "$STATE/sources"
  stamp sources "$key"
}

# shellcheck source=/dev/null
sources_read() { [ ! -s "$STATE/sources" ] || source "$STATE/sources"; }

# source_of WHAT PROBE...: "official" or "build"
source_of() {
  if [ "$SOURCE_WANTED" != build ] && "${@:2}" >&2; then
    echo official
  elif [ "$SOURCE_WANTED" = official ]; then
    die "$1 can't be pulled, and FLEETBOARD_LAB_SOURCE is \"official\""
  else
    echo build
  fi
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# The manifest is small and refused at once, where a pull might try for minutes.
can_pull() {
  has_image "$1" && return
  timeout 30 docker manifest inspect "$1" >/dev/null && timeout 1800 docker pull "$1"
}

can_download() { curl -fsSIL --max-time 20 -o /dev/null "$1"; }

kubectl_url() { echo "https://dl.k8s.io/release/v$KUBERNETES/bin/linux/$ARCH/kubectl"; }
kind_url() { echo "https://kind.sigs.k8s.io/dl/v$KIND/kind-linux-$ARCH"; }
helm_url() { echo "https://get.helm.sh/helm-v$HELM-linux-$ARCH.tar.gz"; }
