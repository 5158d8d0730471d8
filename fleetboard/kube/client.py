"""The verbs of a Kubernetes API over typed collections.

Invariant: every call is bounded in time and ends in a value or in an error of ``fleetboard.kube.errors``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from fleetboard.kube import credentials, encoding, errors, transport, watch
from fleetboard.model.resource import Resource

T = TypeVar("T")
Pairs = list[tuple[str, str]]
Objects = list[T]
Body = dict[str, Any]

PAGE_SIZE = 500
# Names come from users and from other clusters; in a path, "..", "/" or "?" would address another object.
_SEGMENT = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._:]*[A-Za-z0-9])?")


class Client:
    """Client of one API server. Thread-safe."""

    def __init__(self, transport_: transport.Transport) -> None:
        self._transport = transport_

    @classmethod
    def in_cluster(cls, *, user_agent: str) -> Client:
        """Use the pod's service account."""
        return cls(transport.Transport(credentials.in_cluster(), user_agent=user_agent))

    @classmethod
    def from_kubeconfig(cls, path: str, context: str, *, user_agent: str) -> Client:
        """Use a kubeconfig; an empty ``context`` means its current one."""
        return cls(transport.Transport(credentials.kubeconfig(path, context), user_agent=user_agent))

    @classmethod
    def from_token(cls, server: str, *, ca_pem: bytes, token: Callable[[], str], user_agent: str) -> Client:
        """Use a bearer token, read at each request; an empty ``ca_pem`` trusts the system's authorities."""
        return cls(transport.Transport(credentials.token(server, ca_pem=ca_pem, token=token), user_agent=user_agent))

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._transport.server

    def get(
        self, resource: Resource[T], name: str, namespace: str = "", *, timeout_s: float = transport.READ_TIMEOUT_S
    ) -> T:
        """Return one object.

        Raises:
            NotFoundError: there is none.
        """
        path = _path(resource, namespace, name)
        return encoding.decode(resource, self._transport.request("GET", path, timeout_s=timeout_s))

    def find(
        self, resource: Resource[T], name: str, namespace: str = "", *, timeout_s: float = transport.READ_TIMEOUT_S
    ) -> T | None:
        """Return one object, or None when there is none."""
        try:
            return self.get(resource, name, namespace, timeout_s=timeout_s)
        except errors.NotFoundError:
            return None

    def list(
        self, resource: Resource[T], namespace: str = "", *, selector: str = "", field_selector: str = ""
    ) -> tuple[Objects[T], str]:
        """Return all objects at one moment, and the version to watch from."""
        filters = _filters(selector, field_selector)
        try:
            return self._pages(resource, namespace, [*filters, ("limit", str(PAGE_SIZE))])
        except errors.GoneError:
            # The version was compacted away between two pages: one unpaged request can't lose it.
            return self._pages(resource, namespace, filters)

    def create(
        self,
        resource: Resource[T],
        obj: T | Body,
        namespace: str = "",
        *,
        timeout_s: float = transport.READ_TIMEOUT_S,
    ) -> T:
        """Create an object, in ``namespace`` or else in the namespace of its metadata.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        body = encoding.encode(resource, obj)
        path = _path(resource, namespace or body["metadata"].get("namespace", ""), "")
        return encoding.decode(resource, self._transport.request("POST", path, body=body, timeout_s=timeout_s))

    def apply(
        self,
        resource: Resource[T],
        obj: T | Body,
        *,
        manager: str,
        subresource: str = "",
        force: bool = True,
        keep_version: bool = False,
    ) -> T:
        """Apply what ``manager`` wants of an object (server-side apply); fields it no longer names are removed.

        With ``subresource`` the object must exist, and only that part of ``obj`` is sent. With ``keep_version`` the
        object must still be at the resourceVersion in ``obj``.

        Raises:
            ConflictError: it is at another version.
        """
        body = encoding.encode(resource, obj, keep_version=keep_version, subresource=subresource)
        query = [("fieldManager", manager), ("force", "true" if force else "false")]
        answer = self._transport.request(
            "PATCH",
            _object_path(resource, body, subresource),
            query=query,
            body=encoding.as_yaml(body),
            content_type="application/apply-patch+yaml",
        )
        return encoding.decode(resource, answer)

    def put(self, resource: Resource[T], obj: T | Body, *, current: T | None) -> T:
        """Write a whole object that has no other writer; ``current`` is the caller's copy of it, if any.

        Fields that are not in ``obj`` are lost. Server-side apply, which would keep them, costs the API server half as
        much again, and twice the etcd requests for a new object.

        Raises:
            ConflictError: the object changes again and again.
        """
        body = encoding.encode(resource, obj)
        try:
            if current is None:
                return self.create(resource, body)
            return self._replace(resource, body, encoding.metadata_of(current).resource_version)
        except errors.NotFoundError:
            return self.create(resource, body)
        except (errors.AlreadyExistsError, errors.ConflictError) as err:
            # The answer to our own write was lost, or the watch is late.
            try:
                return self._replace(resource, body, self._version(resource, body))
            except errors.NotFoundError:
                raise err from None

    def _replace(self, resource: Resource[T], body: Body, version: str) -> T:
        return self.replace(resource, {**body, "metadata": {**body["metadata"], "resourceVersion": version}})

    def _version(self, resource: Resource[T], body: Body) -> str:
        """Return the version of the present object, even when the object itself can't be read."""
        skeleton = encoding.decode_skeleton(self._transport.request("GET", _object_path(resource, body, "")))
        return skeleton.metadata.resource_version

    def patch_status(self, resource: Resource[T], current: T, status: Body) -> T:
        """Change some fields of a status, at the version of ``current``.

        Lists are written whole, with other writers' entries as they were at that version.

        Raises:
            ConflictError: the object changed since.
        """
        metadata = encoding.metadata_of(current)
        patch = {"metadata": {"resourceVersion": metadata.resource_version}, "status": status}
        return self.merge_patch(resource, metadata.name, metadata.namespace, patch, subresource="status")

    def merge_patch(self, resource: Resource[T], name: str, namespace: str, patch: Body, *, subresource: str = "") -> T:
        """Change some fields of an object (RFC 7396: null removes, lists are replaced)."""
        answer = self._transport.request(
            "PATCH",
            _path(resource, namespace, name, subresource),
            body=patch,
            content_type="application/merge-patch+json",
        )
        return encoding.decode(resource, answer)

    def replace(
        self,
        resource: Resource[T],
        obj: T | Body,
        *,
        subresource: str = "",
        timeout_s: float = transport.READ_TIMEOUT_S,
    ) -> T:
        """Replace an object at the version it was read at; fields that the struct doesn't have are lost.

        Raises:
            ConflictError: the object changed since.
        """
        body = encoding.encode(resource, obj, keep_version=True, subresource=subresource)
        path = _object_path(resource, body, subresource)
        return encoding.decode(resource, self._transport.request("PUT", path, body=body, timeout_s=timeout_s))

    def delete(self, resource: Resource[Any], name: str, namespace: str = "", *, uid: str = "") -> bool:
        """Delete an object, with ``uid`` only that one; return whether there was one to delete."""
        body: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._transport.request("DELETE", _path(resource, namespace, name), body=body)
        except errors.NotFoundError:
            return False
        except errors.ConflictError:
            if uid:  # another object has the name now
                return False
            raise
        return True

    def watch(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        version: str,
        seconds: int,
        selector: str = "",
        field_selector: str = "",
    ) -> watch.Watch[T]:
        """Begin to watch a collection from ``version``; the server ends the watch after ``seconds``."""
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(seconds)),
            *_filters(selector, field_selector),
        ]
        path = _path(resource, namespace, "")
        response = self._transport.open(path, query=query, timeout_s=seconds + 10)
        return watch.Watch(resource, response, translated_errors=self._transport.translated_errors)

    def post(self, path: str, body: Body) -> Body:
        """Post to a path that is not a collection, such as TokenRequest."""
        answer = self._transport.request("POST", path, body=body)
        try:
            return msgspec.json.decode(answer, type=dict[str, Any])
        except msgspec.DecodeError as err:
            raise errors.AnswerRefusedError(f"the server's answer to POST {path} can't be read: {err}") from err

    def read(self, path: str) -> bytes:
        """Return the body of any path."""
        return self._transport.request("GET", path)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _pages(self, resource: Resource[T], namespace: str, query: Pairs) -> tuple[Objects[T], str]:
        path = _path(resource, namespace, "")
        items: list[T] = []
        token: Pairs = []
        while True:
            page = encoding.decode_page(resource, self._transport.request("GET", path, query=[*query, *token]))
            items += page.items
            if not page.token:
                return items, page.version
            token = [("continue", page.token)]


def _filters(selector: str, field_selector: str) -> Pairs:
    pairs = [("labelSelector", selector), ("fieldSelector", field_selector)]
    return [(name, value) for name, value in pairs if value]


def _path(resource: Resource[Any], namespace: str, name: str, subresource: str = "") -> str:
    for segment in (namespace, name):
        if segment and not _SEGMENT.fullmatch(segment):
            raise errors.InvalidError(422, "Invalid", f"{segment!r} can't be the name of a {resource.kind}")
    return resource.path(namespace, name, subresource=subresource)


def _object_path(resource: Resource[Any], body: Body, subresource: str) -> str:
    meta = body["metadata"]
    if not meta.get("name") or (resource.namespaced and not meta.get("namespace")):
        raise errors.InvalidError(422, "Invalid", f"a {resource.kind} to write needs metadata.name and its namespace")
    return _path(resource, meta.get("namespace", ""), meta["name"], subresource)
