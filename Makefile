# Every target sets up what it needs, from a bare Debian or Ubuntu machine. The line above a target is what `make` prints of it.
.PHONY: help demo test test-unit test-netns check bench conformance images lab-down
SHELL := /bin/bash

## print this list
help: ; @awk -F: '/^## / {text = substr($$0, 4)} /^[a-z-]+:/ {printf "make %-12s %s\n", $$1, text}' Makefile

## show it: starts Docker and three clusters, curls across two; root, 15 GiB of disk; 3 minutes; the first time 12 to 20 where images must be built
demo: ; @hack/demo
## format, lint, types, layers, shell, spelling, charts and CRDs; root to install shellcheck; two minutes, starts nothing
check: ; @hack/check
## every test: unit, charts, network namespaces, and end to end on the clusters of `make demo`; root; an hour
test: ; @hack/test
## the quick loop: tests of pure code and of fakes; no root, starts nothing; two minutes
test-unit: ; @hack/uv run --locked pytest -q tests/unit
## tests in network namespaces of this kernel; root, installs packages; ten minutes, starts no cluster
test-netns: ; @hack/packages netns && hack/uv run --locked pytest -q tests/netns
## measure beside Go's CNI plugins, CoreDNS and kube-proxy; root, needs the clusters and starts them; 15 minutes
bench: ; @hack/bench
## run upstream's MCS suite, SUITE=PATH (docs/conformance.md); root, needs the clusters and starts them; 7 minutes
conformance: ; @hack/conformance "$(SUITE)"
## build the container image; needs Docker; minutes the first time
images: ; @hack/images/build
## delete the clusters of `make demo`, and stop Docker if the lab started it; root; a minute
lab-down: ; @hack/lab down
