# shellcheck shell=bash
# What the machine itself must have: Debian packages for commands that are missing, and enough inotify instances.

machine_prepare() {
  local missing
  missing=$(missing_packages)
  if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    # docker.io of newer releases leaves the client to a package of its own.
    if [[ " $missing " == *" docker.io "* ]] && apt-cache show docker-cli >/dev/null 2>&1; then missing+=" docker-cli"; fi
    # shellcheck disable=SC2086 # a list
    apt-get install -y --no-install-recommends $missing
  fi
  raise_sysctl fs.inotify.max_user_instances 512
  raise_sysctl fs.inotify.max_user_watches 524288
}

# Asked by command, not by package: a machine may have Docker from elsewhere.
missing_packages() {
  local pair packages=()
  for pair in docker:docker.io dockerd:docker.io containerd:containerd runc:runc ip:iproute2 iptables:iptables \
    jq:jq curl:curl debootstrap:debootstrap gcc:gcc update-ca-certificates:ca-certificates; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
  done
  [ -e /usr/include/stdio.h ] || packages+=(libc6-dev)
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages+=(debian-archive-keyring)
  printf '%s\n' "${packages[@]}" | sort -u | xargs
}

# Four nodes need more than the kernel's default of 128 instances.
raise_sysctl() {
  [ "$(sysctl -n "$1")" -ge "$2" ] || sysctl -qw "$1=$2"
}
