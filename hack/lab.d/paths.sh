# shellcheck shell=bash disable=SC2034 # sourced by hack/lab, which uses these
# Where things are kept. Only bin/ goes on anybody's PATH: parts/ holds `bridge` and others that would hide the system's.
BIN=$CACHE/bin
PARTS=$CACHE/parts
LOGS=$CACHE/log
STATE=$CACHE/lab
SCRATCH=$CACHE/build
export KUBECONFIG=$CACHE/kubeconfig
ARCH=$(dpkg --print-architecture 2>/dev/null) || die "this machine has no dpkg; the lab needs a Debian or Ubuntu"
mkdir -p "$BIN" "$PARTS" "$LOGS" "$STATE" "$SCRATCH"
export PATH=$BIN:$PATH

# A stamp says which version a product was made of; a product without its stamp was interrupted, and is made again.
stamped() { [ "$(cat "$STATE/stamp-$1" 2>/dev/null)" = "$2" ]; }
stamp() { echo "$2" >"$STATE/stamp-$1"; }

# The first 12 digits of a hash over standard input.
short_hash() { sha256sum | cut -c1-12; }
