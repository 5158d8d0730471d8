# shellcheck shell=bash
# A Go new enough for Kubernetes: the machine's, else one from the Go module proxy, where toolchains are plain modules.

# Modules stay deletable (modcacherw); what a build uses is what is installed, never a toolchain fetched in passing.
export GOTOOLCHAIN=local
export GOFLAGS="-modcacherw -buildvcs=false"
export CGO_ENABLED=0
[ ! -x "$CACHE/go/bin/go" ] || PATH=$CACHE/go/bin:$PATH

go_ready() {
  local version
  version=$(go env GOVERSION 2>/dev/null) || return 1
  version=${version#go}
  [ "$(printf '%s\n' "$GO_MINIMUM" "$version" | sort -V | head -n1)" = "$GO_MINIMUM" ]
}

go_install() {
  if go_ready; then return; fi
  command -v go >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends golang-go
  local folder
  folder=$(go_module_dir "golang.org/toolchain@v0.0.1-go$GO.linux-$ARCH")
  rm -rf "$CACHE/go" "$CACHE/go.new"
  cp -r "$folder" "$CACHE/go.new"
  chmod -R u+w "$CACHE/go.new"
  # A module carries no execute bits.
  chmod 755 "$CACHE/go.new"/bin/* "$CACHE/go.new/pkg/tool/linux_$ARCH"/*
  mv "$CACHE/go.new" "$CACHE/go"
  PATH=$CACHE/go/bin:$PATH
  go_ready || die "the Go that was installed in $CACHE/go is not $GO_MINIMUM or newer"
}

# The folder of MODULE@VERSION in the module cache, fetched when it is not there.
go_module_dir() { (cd / && go mod download -json "$1") | jq -re .Dir; }

# go_build NAME MODULE@VERSION LDFLAGS OUT=PACKAGE...: build commands of a module into PARTS.
# Like `go install MODULE@VERSION`, which refuses modules that have replace directives.
go_build() {
  go_workspace "$1" "$2"
  go_compile "$1" "${@:3}"
}

# go_workspace NAME MODULE@VERSION: a module of our own that requires the other as it would be built at home.
go_workspace() {
  local work=$SCRATCH/$1 folder
  folder=$(go_module_dir "$2")
  rm -rf "$work"
  mkdir -p "$work"
  {
    # A go line of 1.17 or later lets go leave out what the packages don't need of the module graph.
    printf 'module lab/%s\ngo %s.0\n' "$1" "$GO_MINIMUM"
    go_replaces "$folder" | grep -v '=> \.' || true
  } >"$work/go.mod"
  go -C "$work" mod edit "-require=$2"
}

# go_compile NAME LDFLAGS OUT=PACKAGE...
go_compile() {
  local work=$SCRATCH/$1 ldflags="-s -w $2" target
  shift 2
  go_require "$work" "${@#*=}"
  for target in "$@"; do
    go -C "$work" build -trimpath -ldflags "$ldflags" -o "$PARTS/${target%%=*}" "${target#*=}"
  done
}

# The replace directives of a module, each as a line of its own.
go_replaces() { sed -n '/^replace/,/^)/p' "$1/go.mod" | grep '=>' | sed 's/^replace //; s/^[[:space:]]*/replace /'; }

# go_require FOLDER PACKAGE...: name the packages in a source file, so that `go mod tidy` finds what they need.
go_require() {
  {
    printf '//go:build tools\npackage tools\n\nimport (\n'
    printf '\t_ "%s"\n' "${@:2}"
    echo ')'
  } >"$1/tools.go"
  go -C "$1" mod tidy -e
}
