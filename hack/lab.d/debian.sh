# shellcheck shell=bash
# Debian root file systems as Docker images, made by debootstrap where they can't be pulled: one for the nodes, one under
# the name that the project's Dockerfile builds on.

NODE_PACKAGES=systemd,systemd-sysv,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs
NODE_PACKAGES+=,bash,ca-certificates,curl,jq,procps,runc,containerd,hostname,socat,netbase

debian_node_name() { echo "fleetboard-lab/debian:$NODE_DEBIAN-$(echo "$NODE_PACKAGES" | short_hash)"; }

debian_node_image() {
  if has_image "$(debian_node_name)" || has_image "$(node_image_name)"; then return; fi
  debian_import "$NODE_DEBIAN" "$NODE_PACKAGES" "$(debian_node_name)"
}

debian_base_image() {
  if has_image "$BASE_IMAGE"; then return; fi
  [ "$(source_of "$BASE_IMAGE" can_pull "$BASE_IMAGE")" = build ] || return 0
  debian_import "$BASE_DEBIAN" ca-certificates "$BASE_IMAGE"
}

# debian_import SUITE PACKAGES IMAGE
debian_import() {
  local root=$SCRATCH/debian-$1 proxy=
  debian_discard "$root" # of an interrupted run
  mkdir -p "$root"
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  # shellcheck disable=SC2046 # no word when there is no mirror
  env ${proxy:+http_proxy="$proxy" https_proxy="$proxy"} \
    debootstrap --variant=minbase "--include=$2" "$1" "$root" $(apt_mirror)
  apt_settings "$1" "$root"
  trust_like_host "$root"
  chmod 1777 "$root/tmp"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" --numeric-owner -c . |
    docker import -c 'CMD ["bash"]' -c "ENV SSL_CERT_FILE=$CA_BUNDLE PIP_CERT=$CA_BUNDLE NODE_EXTRA_CA_CERTS=$CA_BUNDLE" - "$3"
  debian_discard "$root"
}

# debootstrap mounts /proc into the root, and an interrupted one leaves it there.
debian_discard() {
  umount -q "$1/proc" "$1/sys" 2>/dev/null || true
  rm -rf --one-file-system "$1"
}

# The mirror this machine uses for its own release, when it is a Debian; else nothing, and debootstrap knows Debian's.
apt_mirror() {
  [ "$(os_release ID)" != debian ] || apt_repository "$(os_release VERSION_CODENAME)"
}

# shellcheck source=/dev/null
os_release() { (. /etc/os-release && echo "${!1:-}"); }

# apt_repository RELEASE: the address of the repository that apt reads RELEASE's main from, or nothing.
apt_repository() {
  # shellcheck disable=SC2016 # apt's own placeholders
  apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$1" '$1 == release && $2 == "main" && $3 ~ /^https?:/ && !found++ {print $3}'
}

# apt inside a build asks where apt outside asks: the same mirror, security archive, proxies and checks.
apt_settings() {
  local suite=$1 etc=$2/etc/apt mirror security
  mirror=$(awk '$1 == "deb" && !found++ {print $2}' "$etc/sources.list") # as debootstrap left it
  security=$(apt_repository "$(os_release VERSION_CODENAME)-security")
  {
    echo "deb $mirror $suite main"
    echo "deb $mirror $suite-updates main"
    [ "$(os_release ID)" = debian ] || security=
    [ -z "$security" ] || echo "deb $security $suite-security main"
  } >"$etc/sources.list"
  apt-config dump | grep -E '^Acquire::(https?::|Check-Valid-Until|Check-Date|Retries)' >"$etc/apt.conf.d/90host" || true
}

CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt

# Where the way out passes an inspecting proxy, its authority is in the host's bundle.
trust_like_host() {
  cp "$CA_BUNDLE" "$1$CA_BUNDLE"
  cp -rL /usr/local/share/ca-certificates/. "$1/usr/local/share/ca-certificates/" 2>/dev/null || true
}
