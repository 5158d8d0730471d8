"""Encodes objects as the API's JSON, and decodes them.

Invariant: an encoded object has no metadata that the server writes, and always the apiVersion and kind of its
collection, whatever the struct holds.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from fleetboard.kube import errors
from fleetboard.model import meta, resource

log = logging.getLogger(__name__)
T = TypeVar("T")

# Written by the server alone; sending them back is refused or means a precondition.
READ_ONLY = frozenset({"uid", "generation", "creationTimestamp", "deletionTimestamp", "managedFields", "selfLink"})


# In UTF-8: DEL, C1 with NEL, line and paragraph separator, byte order mark, noncharacters.
_NOT_YAML = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf|\xef\xbf[\xbe\xbf]")


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class _Identity(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Skeleton(msgspec.Struct):
    """The part that objects of all kinds have."""

    metadata: _Identity = _Identity()

    @property
    def key(self) -> str:
        """The key, as of ``ObjectMeta.key``."""
        meta = self.metadata
        return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


class RawEvent(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _RawPage(msgspec.Struct):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    items: list[T]
    version: str
    token: str


# The first decoder of a type makes a table of its fields and of those of the types in it. A thread that makes another
# decoder meanwhile finds half a table, and the process ends with a segmentation fault (msgspec 0.22): one at a time.
_making = threading.Lock()


@functools.cache
def _page_decoder(type_: Any) -> Callable[[bytes], Any]:
    # Decoding a page in one go is ten times faster than object by object.
    fields: list[tuple[str, Any, Any]] = [("metadata", _ListMeta, _ListMeta()), ("items", list[type_] | None, None)]
    with _making:
        return msgspec.json.Decoder(msgspec.defstruct("Page", fields)).decode


@functools.cache
def _decoder(type_: Any) -> Callable[[bytes | msgspec.Raw], Any]:
    with _making:
        return msgspec.json.Decoder(type_).decode


_decode_raw_page = msgspec.json.Decoder(_RawPage).decode
_decode_event = msgspec.json.Decoder(RawEvent).decode
_decode_skeleton = msgspec.json.Decoder(Skeleton).decode


def decode(kind: resource.Resource[T], body: bytes | msgspec.Raw) -> T:
    """Return the object in ``body``.

    Raises:
        AnswerRefusedError: it isn't an object of that kind.
    """
    try:
        decoded: T = _decoder(cast("Any", kind.type))(body)
    except msgspec.DecodeError as err:
        raise errors.AnswerRefusedError(f"the server's {kind.kind} can't be read: {err}") from err
    return decoded


def decode_page(kind: resource.Resource[T], body: bytes) -> Page[T]:
    """Return the page in ``body``.

    An object that can't be read is logged and left out: on the hub members write objects, and one invalid object must
    not hide all others.
    """
    try:
        page = _page_decoder(cast("Any", kind.type))(body)
        items: list[T] = page.items or []
    except msgspec.ValidationError:
        try:
            page = _decode_raw_page(body)
        except msgspec.DecodeError as err:
            raise errors.AnswerRefusedError(f"the server's list of {kind.plural} can't be read: {err}") from err
        items = [obj for raw in page.items or [] if (obj := decode_or_none(kind, raw)) is not None]
    except msgspec.DecodeError as err:
        raise errors.AnswerRefusedError(f"the server's list of {kind.plural} can't be read: {err}") from err
    return Page(items, page.metadata.resource_version, page.metadata.continue_ or "")


def decode_or_none(kind: resource.Resource[T], body: bytes | msgspec.Raw) -> T | None:
    """Return the object in ``body``, or None with an error logged when it can't be read."""
    try:
        return decode(kind, body)
    except errors.AnswerRefusedError as err:
        log.error("could not read an object, ignoring it", extra={"error": str(err), "key": decode_skeleton(body).key})
        return None


def decode_event(line: bytes) -> RawEvent:
    """Return one line of a watch.

    Raises:
        AnswerRefusedError: it isn't a watch event.
    """
    try:
        return _decode_event(line)
    except msgspec.DecodeError as err:
        raise errors.AnswerRefusedError(f"a watch event can't be read: {err}") from err


def decode_skeleton(body: bytes | msgspec.Raw) -> Skeleton:
    """Return key and version of an object of any kind; empty when even those can't be read."""
    try:
        return _decode_skeleton(body)
    except msgspec.DecodeError:
        return Skeleton()


def encode(
    kind: resource.Resource[T], obj: T | dict[str, Any], *, keep_version: bool = False, subresource: str = ""
) -> dict[str, Any]:
    """Return the JSON to send: defaults left out, apiVersion and kind filled in, read-only metadata stripped.

    Args:
        kind: Collection of the object.
        obj: A struct of the collection's type, or a dict with the API's field names.
        keep_version: Keep resourceVersion, which makes a write conditional.
        subresource: When given, only the name and that part of the object are kept.
    """
    body: dict[str, Any] = msgspec.to_builtins(obj)
    body |= {name: value for name, value in _constants(obj).items() if name not in body}
    body["apiVersion"], body["kind"] = kind.api_version, kind.kind
    stripped = READ_ONLY if keep_version else READ_ONLY | {"resourceVersion"}
    meta = {name: value for name, value in body.get("metadata", {}).items() if name not in stripped}
    if subresource:
        meta = {name: meta[name] for name in ("name", "namespace", "resourceVersion") if name in meta}
        body = {name: body[name] for name in ("apiVersion", "kind", subresource) if name in body}
    body["metadata"] = meta
    return body


def as_yaml(body: dict[str, Any]) -> bytes:
    """Return JSON that is also valid YAML of the same value: the API server reads applied objects as YAML (go-yaml).

    YAML refuses some characters that JSON needn't escape, and reads others as the end of a line.
    """
    return _NOT_YAML.sub(_escape, msgspec.json.encode(body))


def _escape(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def metadata_of(obj: Any) -> meta.ObjectMeta:
    """Return the metadata of an object of any collection."""
    metadata: meta.ObjectMeta = obj.metadata
    return metadata


def _constants(obj: Any) -> dict[str, str]:
    """Return top-level texts that were left out because they equal their default, though the API requires them.

    EndpointSlice.addressType is required, Secret.type immutable: both would otherwise vanish.
    """
    if not isinstance(obj, msgspec.Struct):
        return {}
    values = {encoded: getattr(obj, name) for name, encoded in field_names(type(obj))}
    return {name: value for name, value in values.items() if isinstance(value, str) and value}


@functools.cache
def field_names(type_: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """Return the fields of a struct, each by its name here and in the API; cached, since msgspec is slow at it."""
    return tuple((field.name, field.encode_name) for field in msgspec.structs.fields(type_))
