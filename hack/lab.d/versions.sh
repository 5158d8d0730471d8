# shellcheck shell=bash disable=SC2034 # sourced by hack/lab, which uses these
# Every version the lab pins. Changing one rebuilds what depends on it and nothing else.

# 1.34 is the last minor that runs on cgroup v1 without a switch, and serves MutatingAdmissionPolicy as v1beta1.
KUBERNETES=1.34.4
OFFICIAL_NODE=kindest/node:v1.34.3@sha256:08497ee19eace7b4b5348db5c6a1591d7752b164530a36f855cb0f2bdcbadd48
KIND=0.33.0
HELM=3.19.0
ETCD=3.6.7
COREDNS=1.12.1
CNI_PLUGINS=1.9.1
CNITOOL=1.3.0
MULTUS=4.2.2

GO_MINIMUM=1.24
GO=1.25.5

# systemd 252 of bookworm still boots where cgroups are v1; trixie's refuses to.
NODE_DEBIAN=bookworm
BASE_DEBIAN=trixie
BASE_IMAGE=debian:trixie-slim
