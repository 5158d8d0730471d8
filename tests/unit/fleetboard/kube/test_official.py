"""A process loads only those modules of the official client that it uses, and a full import gives all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module", ["fleetboard.kube.client", "syncer.member.daemon", "cnf.agent.agent", "crossdns.watch.watch"]
)
def test_no_part_loads_what_only_the_rest_of_the_package_needs(module: str) -> None:
    loaded = run(f"import sys, {module}; print(*sys.modules)").split()

    assert "kubernetes.client.rest" in loaded
    heavy = {"pydantic", "requests", "oauthlib", "websocket", "kubernetes", "kubernetes.config", "kubernetes.dynamic"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("first", ["fleetboard.kube.official", "kubernetes"])
def test_importing_the_package_gives_all_of_it_with_the_same_modules(first: str) -> None:
    run(
        f"import {first}\n"
        "import kubernetes, kubernetes.watch\n"
        "from fleetboard.kube import official\n"
        "from kubernetes import client, config, utils\n"
        "from kubernetes.config import config_exception, kube_config\n"
        "assert client.Configuration is kubernetes.client.Configuration is official.configuration.Configuration\n"
        "assert config.ConfigException is official.config_exception.ConfigException\n"
        "assert config_exception is official.config_exception\n"
        "assert utils.tcp_keepalive_socket_options is official.keepalive.tcp_keepalive_socket_options\n"
        "assert client.rest is official.rest\n"
        "client.CoreV1Api(client.ApiClient(client.Configuration(host='http://127.0.0.1:1')))\n"
    )
