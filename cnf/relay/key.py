"""The relay's WireGuard key, kept in a Secret.

Invariant: a key in the Secret is never replaced, so a new pod of the relay is the same peer to every member.
"""

from __future__ import annotations

import base64
import logging
import time

from cnf.tunnel.wireguard import key
from fleetboard.kube import backoff
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors as kube_errors
from fleetboard.model import core, meta, resource

log = logging.getLogger(__name__)

SECRET = "cnf-hub-key"  # noqa: S105 - a name
SECRET_FIELD = "private-key"  # noqa: S105 - a name
RETRY_S = 5.0


def ensure(client: kube_client.Client, namespace: str) -> key.PrivateKey:
    """Return the relay's key, made at the first call.

    Raises:
        KeyRefusedError: the Secret holds something else; it is left as it is.
        KubeError: the API server refused or did not answer.
    """
    secret = client.find(resource.SECRETS, SECRET, namespace)
    if secret is None:
        encoded = base64.b64encode(key.generate().base64.encode()).decode()
        wanted = core.Secret(metadata=meta.ObjectMeta(name=SECRET, namespace=namespace), data={SECRET_FIELD: encoded})
        try:
            secret = client.create(resource.SECRETS, wanted)
        except kube_errors.AlreadyExistsError:
            secret = client.get(resource.SECRETS, SECRET, namespace)
    return key.parse(
        base64.b64decode(secret.data.get(SECRET_FIELD, "")), field=f"Secret {namespace}/{SECRET} {SECRET_FIELD}"
    )


def wait(client: kube_client.Client, namespace: str) -> key.PrivateKey:
    """Return the relay's key once the API server answers.

    If the process ended instead, kubelet would wait longer before each restart, also when the API server is back.

    Raises:
        KeyRefusedError: the Secret holds something else.
        KubeError: the API server refused.
    """
    pauses = backoff.Backoff(cap_s=RETRY_S)
    while True:
        try:
            return ensure(client, namespace)
        except (kube_errors.UnreachableError, kube_errors.ServerError, kube_errors.ThrottledError) as err:
            delay_s = pauses.after(err)
            log.warning(
                "could not read the relay's key, retrying", extra={"error": str(err), "retry_s": round(delay_s, 1)}
            )
            time.sleep(delay_s)
