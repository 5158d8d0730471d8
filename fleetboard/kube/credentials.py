"""Reads the address, trust and credential of an API server.

Every client has a configuration of its own: a part may talk to two clusters, so the kubernetes package's process-wide
default is never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from fleetboard.kube import errors
from fleetboard.kube.official import config_exception, configuration, incluster_config


def in_cluster() -> Any:
    """Return the pod's own configuration; the package reads the token file again every minute."""
    made = configuration.Configuration()
    try:
        incluster_config.load_incluster_config(client_configuration=made)
    except (config_exception.ConfigException, OSError) as err:
        raise errors.ConfigurationRefusedError(f"the pod's service account can't be used: {err}") from err
    return made


def kubeconfig(path: str, context: str) -> Any:
    """Return the configuration of a kubeconfig's ``context``; empty means the current one."""
    # Imported here, since only people have a kubeconfig and this loads the whole package.
    from kubernetes.config import kube_config

    made = configuration.Configuration()
    try:
        kube_config.load_kube_config(config_file=path, context=context or None, client_configuration=made)
    except (config_exception.ConfigException, OSError, yaml.YAMLError) as err:
        raise errors.ConfigurationRefusedError(f"kubeconfig {path}, context {context!r}: {err}") from err
    return made


def token(server: str, *, ca_pem: bytes, token: Callable[[], str]) -> Any:
    """Return a configuration that calls ``token`` at every request, so that a renewed token is used at once."""
    made = configuration.Configuration(host=server.rstrip("/"), ca_cert_data=ca_pem.decode() if ca_pem else None)
    made.api_key_prefix["BearerToken"] = "Bearer"

    def ask(config: Any) -> None:
        config.api_key["BearerToken"] = token()

    made.api_key["BearerToken"] = ""  # the package calls the hook only for schemes that have a value
    made.refresh_api_key_hook = ask
    return made
