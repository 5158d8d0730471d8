"""The key of a service of the clusterset, and the two texts that it is written as.

A member's API and its stores say ``<namespace>/<service>``; the hub's objects, of all namespaces in one, are named
``<namespace>.<service>``. Parse either at the edge with the functions below and pass a ``ServiceKey`` on.
"""

from __future__ import annotations

from typing import NamedTuple

from fleetboard.model import core, names


class ServiceKey(NamedTuple):
    """A service of the clusterset: hashable, ordered by namespace and name.

    A named tuple, since queues, indexes and plans hash it for every event.
    """

    namespace: str
    name: str

    @property
    def slash(self) -> str:
        """``<namespace>/<service>``: the key of the service's objects in a member's stores."""
        return f"{self.namespace}/{self.name}"

    @property
    def dotted(self) -> str:
        """``<namespace>.<service>``: the name of the service's objects on the hub, and of their copies."""
        return f"{self.namespace}.{self.name}"

    def __str__(self) -> str:
        return self.slash


def parse_slash(text: str) -> ServiceKey:
    """Parse the key of a namespaced object of a member's API.

    Raises:
        NameRefusedError: not ``<namespace>/<name>``, which no store of a namespaced kind holds.
    """
    namespace, _, name = text.partition("/")
    if not namespace or not name:
        raise names.NameRefusedError(f"key {text!r} is not <namespace>/<service>")
    return ServiceKey(namespace, name)


def parse_dotted(text: str) -> ServiceKey | None:
    """Parse the name of a hub object, or its store key ``<hub namespace>/<namespace>.<service>``.

    None when it is no service's: objects there may have any name. A namespace holds no dot, so the first one divides.
    """
    namespace, _, name = text.rpartition("/")[2].partition(".")
    return ServiceKey(namespace, name) if namespace and name else None


def of_imported(endpoint_slice: core.EndpointSlice) -> ServiceKey | None:
    """Return the service of a slice that lies in the service's own namespace; None when its label is missing."""
    name = endpoint_slice.metadata.labels.get(names.LABEL_SERVICE_NAME, "")
    return ServiceKey(endpoint_slice.metadata.namespace, name) if name else None


def of_exchanged(endpoint_slice: core.EndpointSlice) -> ServiceKey | None:
    """Return the service of a slice on the hub, where labels name both parts; None when one is missing."""
    labels = endpoint_slice.metadata.labels
    namespace, name = labels.get(names.LABEL_SERVICE_NAMESPACE, ""), labels.get(names.LABEL_SERVICE_NAME, "")
    return ServiceKey(namespace, name) if namespace and name else None
