"""A node whose CNI folder is another: what a user sees, and what is left there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import lab
import pytest
import trial
import yaml

NAMESPACE = "e2e-folder"
ELSEWHERE = "/opt/e2e-cni/bin"
HUB = {"server": "https://192.0.2.1:6443", "caData": "QQ==", "token": "t", "cluster": "c2"}


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    lab.C2.delete("namespace", NAMESPACE)
    lab.C2.apply(lab.make_namespace(NAMESPACE))
    yield
    lab.C2.delete("namespace", NAMESPACE, wait=False)
    for node in lab.C2.nodes():
        lab.C2.node_exec(node, "rm", "-rf", "/opt/e2e-cni")


def install_into(folder: str, name: str) -> None:
    """Start a pod that installs into a folder as the chart's cnf pod does, and does nothing else."""
    image = lab.C2.get("deployment", "syncer", lab.SYSTEM)["spec"]["template"]["spec"]["containers"][0]["image"]
    values = {"hub": HUB, "image": {"tag": image.rpartition(":")[2]}, "cni": {"binDir": folder}}
    text = trial.template(trial.CHART, values, "--show-only=templates/cnf.yaml")
    (cnf,) = (item for item in yaml.safe_load_all(text) if item and item["kind"] == "DaemonSet")
    spec = cnf["spec"]["template"]["spec"]
    (container,) = (one for one in spec["containers"] if any(m["name"] == "cni-bin" for m in one["volumeMounts"]))
    container = {key: container[key] for key in ("name", "image", "imagePullPolicy", "env", "securityContext")} | {
        "command": ["python", "-m", "cni.install"],
        "volumeMounts": [{"name": "cni-bin", "mountPath": "/host/cni-bin"}],
    }
    mounted = [volume for volume in spec["volumes"] if volume["name"] == "cni-bin"]
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"restartPolicy": "Never", "containers": [container], "volumes": mounted},
    }
    lab.C2.apply(pod)


def test_a_folder_that_is_not_there_is_named_in_the_pods_events() -> None:
    install_into("/opt/none/bin", "missing")

    def said() -> bool:
        return "hostPath type check failed: /opt/none/bin is not a directory" in json.dumps(
            [event.get("note", event.get("message", "")) for event in lab.C2.list("events", NAMESPACE)]
        )

    lab.eventually(said, within_s=60, every_s=0.5)


def installed_into(folder: str, name: str) -> str:
    """Install, and return what the installer said."""
    install_into(folder, name)
    done = ("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=60s")
    lab.C2.kubectl("-n", NAMESPACE, *done, timeout_s=70)
    return lab.C2.kubectl("-n", NAMESPACE, "logs", name)


def test_another_distributions_folder_gets_a_working_executable_and_a_warning_where_multus_is_not() -> None:
    (node,) = lab.C2.nodes()
    lab.C2.node_exec(node, "mkdir", "-p", ELSEWHERE)
    said = installed_into(ELSEWHERE, "elsewhere")
    assert f"is in {ELSEWHERE}" in said
    assert "warning" in said
    version = lab.C2.node_exec(node, "env", "CNI_COMMAND=VERSION", f"{ELSEWHERE}/fleetboard")
    assert "1.1.0" in json.loads(version)["supportedVersions"]


CALL = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "x", "CNI_NETNS": "/proc/1/ns/net", "CNI_IFNAME": "net9"}


def test_an_old_version_stays_while_a_call_runs_from_it_and_then_goes() -> None:
    (node,) = lab.C2.nodes()
    lab.C2.node_exec(node, "mkdir", "-p", ELSEWHERE)
    installed_into(ELSEWHERE, "first")
    environ = [f"-e{name}={value}" for name, value in CALL.items()]
    command = ["docker", "exec", "-i", *environ, node, f"{ELSEWHERE}/fleetboard"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as call:
        lab.eventually(lambda: waits_for_input(node), within_s=60)
        lab.C2.node_exec(
            node, "sh", "-ec", f"cd {ELSEWHERE}/.fleetboard; mv * old; ln -sfn .fleetboard/old/fleetboard ../fleetboard"
        )
        installed_into(ELSEWHERE, "second")
        (version,) = versions(node) - {"old"}
        assert versions(node) == {"old", version}
        assert call.poll() is None, "the call was under way all the while"
        call.communicate()
    installed_into(ELSEWHERE, "third")
    assert versions(node) == {version}


def waits_for_input(node: str) -> bool:
    """Return whether a call has come to where it reads its input: it has opened its own files by then."""
    process = lab.C2.node_exec(node, "pgrep", "-xf", f"{ELSEWHERE}/fleetboard").strip()
    return lab.C2.node_exec(node, "cat", f"/proc/{process}/wchan").endswith("pipe_read")


def versions(node: str) -> set[str]:
    return set(lab.C2.node_exec(node, "ls", "-A", f"{ELSEWHERE}/.fleetboard").split())
