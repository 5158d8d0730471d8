"""Where the address, trust and credential of an API server come from.

One invariant: a configuration belongs to one client; the kubernetes package's process-wide default is never touched,
for a part may talk to two clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from fleetboard.kube import errors
from fleetboard.kube.official import config_exception, configuration, incluster_config


def in_cluster() -> Any:
    """Return the pod's own configuration; its token file is read again every minute."""
    made = configuration.Configuration()
    try:
        incluster_config.load_incluster_config(client_configuration=made)
    except (config_exception.ConfigException, OSError) as err:
        raise errors.ConfigurationRefusedError(f"the pod's service account can't be used: {err}") from err
    return made


def kubeconfig(path: str, context: str) -> Any:
    """Return what the kubeconfig says of ``context`` (empty: its current one)."""
    # Only people have one, and it brings all of the package.
    from kubernetes.config import kube_config

    made = configuration.Configuration()
    try:
        kube_config.load_kube_config(config_file=path, context=context or None, client_configuration=made)
    except (config_exception.ConfigException, OSError, yaml.YAMLError) as err:
        raise errors.ConfigurationRefusedError(f"kubeconfig {path}, context {context!r}: {err}") from err
    return made


def token(server: str, *, ca_pem: bytes, token: Callable[[], str]) -> Any:
    """Return a configuration that asks ``token`` at every request, so that a renewed one is used at once."""
    made = configuration.Configuration(host=server.rstrip("/"), ca_cert_data=ca_pem.decode() if ca_pem else None)
    made.api_key_prefix["BearerToken"] = "Bearer"

    def ask(config: Any) -> None:
        config.api_key["BearerToken"] = token()

    made.api_key["BearerToken"] = ""  # the package asks the hook only for schemes that have a value
    made.refresh_api_key_hook = ask
    return made
