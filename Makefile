# Every target sets up what it needs, from a bare Debian or Ubuntu machine as root.
.PHONY: demo test test-unit test-netns check bench conformance images lab-down
SHELL := /bin/bash

demo: ; @hack/demo
check: ; @hack/check
test: ; @hack/test
test-unit: ; @hack/uv run --locked pytest -q tests/unit
test-netns: ; @hack/packages netns && hack/uv run --locked pytest -q tests/netns
bench: ; @hack/bench
conformance: ; @hack/conformance "$(SUITE)"
images: ; @hack/images/build
lab-down: ; @hack/lab down
