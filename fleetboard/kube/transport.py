"""Sends one HTTP request to one API server.

TLS, credentials and proxy are the kubernetes package's, requests and errors this module's: the package copies and
checks every value of a call, which takes twice the CPU.

Invariant: no error of the kubernetes package or urllib3 leaves this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import urllib3

from fleetboard.kube import errors, metrics
from fleetboard.kube.official import config_exception, keepalive, rest

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
# Idle connections to keep: a part has at most a dozen watches and as many workers.
POOL_SIZE = 32
_ERROR_BODY_LIMIT = 64 * 1024

Query = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True, slots=True)
class _PreparedRequest:
    """One request, ready to be sent."""

    method: str
    path: str
    url: str
    headers: dict[str, str]
    body: bytes | None


class Transport:
    """Sends requests over a pool of connections. Thread-safe."""

    def __init__(self, configuration: Any, *, user_agent: str) -> None:
        configuration.retries = False  # callers retry with back-off; the library would retry three times at once
        configuration.connection_pool_maxsize = POOL_SIZE
        configuration.socket_options = _socket_options()
        self._configuration, self._user_agent = configuration, user_agent
        # As kubectl does: a kubeconfig of an API server without TLS may name host and port alone.
        self.server: str = configuration.host if "://" in configuration.host else f"http://{configuration.host}"
        try:
            manager = rest.RESTClientObject(configuration).pool_manager
            # One server, one pool: a lookup by each URL would take a third of a request's CPU.
            self._pool: urllib3.HTTPConnectionPool = manager.connection_from_url(self.server)
            # A forwarding proxy, which exists for servers without TLS only, needs the whole URL.
            forwards = self._pool.proxy is not None and self._pool.scheme == "http"
            self._base = self.server if forwards else urllib.parse.urlsplit(self.server).path
        except (urllib3.exceptions.HTTPError, ValueError) as err:
            raise errors.ConfigurationRefusedError(
                f"API server {configuration.host!r} is not a URL: expected one such as https://hub.example:6443: {err}"
            ) from err

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = "application/json",
        timeout_s: float = READ_TIMEOUT_S,
    ) -> bytes:
        """Return the body of a successful answer; ``body`` is encoded as JSON unless it is bytes.

        Raises:
            KubeError: the request failed or was refused.
        """
        headers = {"Accept-Encoding": "gzip"}
        if body is not None:
            headers["Content-Type"] = content_type
        prepared = self._prepare(method, path, query=query, headers=headers, body=body)
        attempts = 2 if method == "GET" else 1
        for attempt in range(attempts):
            try:
                return self._exchange(prepared, timeout_s)
            except _StaleConnectionError:
                # A server may close an idle connection at the moment of the request: to read again is harmless.
                if attempt + 1 == attempts:
                    raise
        raise AssertionError

    def open(self, path: str, *, query: Query, timeout_s: float) -> urllib3.HTTPResponse:
        """Return a response whose body is still to be read; each read may take ``timeout_s``.

        The response's head must arrive within the usual read timeout, so a server that accepts and then stalls is
        noticed soon, however long the body may be silent.
        """
        prepared = self._prepare("GET", path, query=query, headers={}, body=None)
        with self.translated_errors():
            response = self._send(prepared, READ_TIMEOUT_S)
            sock = getattr(response.connection, "sock", None)
            if sock is not None:
                sock.settimeout(timeout_s)
            return response

    @contextlib.contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn every error of the libraries below into one of ``fleetboard.kube.errors``."""
        try:
            yield
        except urllib3.exceptions.SSLError as err:
            raise self._tls_error(err) from err
        except urllib3.exceptions.ProtocolError as err:
            raise _StaleConnectionError(f"{self.server}: the connection was cut") from err
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as err:
            raise errors.UnreachableError(f"{self.server}: {_plain(err)}") from err

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    def _prepare(self, method: str, path: str, *, query: Query, headers: dict[str, str], body: Any) -> _PreparedRequest:
        try:
            auth = self._configuration.auth_settings()
        except (config_exception.ConfigException, OSError) as err:
            raise errors.ConfigurationRefusedError(f"{self.server}: the credential can't be read: {err}") from err
        headers = {"Accept": "application/json", "User-Agent": self._user_agent, **headers}
        if "BearerToken" in auth:
            # An empty token would make the request anonymous, and its refusal would name the wrong reason.
            if not auth["BearerToken"]["value"]:
                raise errors.UnauthorizedError(401, "Unauthorized", "no token yet", request=f"{method} {path}")
            headers["Authorization"] = auth["BearerToken"]["value"]
        url = self._base + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        return _PreparedRequest(method, path, url, headers, content)

    def _exchange(self, prepared: _PreparedRequest, timeout_s: float) -> bytes:
        with self.translated_errors():
            response = self._send(prepared, timeout_s)
            return response.data or b""

    def _send(self, prepared: _PreparedRequest, timeout_s: float) -> urllib3.HTTPResponse:
        response = self._pool.urlopen(
            prepared.method,
            prepared.url,
            headers=prepared.headers,
            body=prepared.body,
            timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
            retries=False,
            redirect=False,
            assert_same_host=False,  # a forwarding proxy is another host
            preload_content=False,
        )
        assert isinstance(response, urllib3.HTTPResponse), "urllib3 has no other, but for the browser"
        metrics.CONTACTS.note(self.server)
        if 200 <= response.status < 300:
            return response
        body = response.read(_ERROR_BODY_LIMIT, decode_content=True)
        if response.read(1):  # longer than any Status: drop the connection instead of draining it
            response.close()
        retry_after = response.headers.get("Retry-After", "")
        raise errors.from_answer(
            response.status, body, request=f"{prepared.method} {prepared.path}", retry_after=retry_after
        )

    def _tls_error(self, err: BaseException) -> errors.UnreachableError:
        cause = _find(err, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return errors.CertificateRefusedError(
                f"{self.server}: the server's certificate is refused: {cause.verify_message}"
            )
        return errors.UnreachableError(f"{self.server}: TLS failed: {getattr(cause, 'reason', None) or 'no answer'}")


class _StaleConnectionError(errors.UnreachableError):
    """The connection ended before the answer was complete."""


def _socket_options() -> list[tuple[int, int, int]]:
    """Notice within 40 s that the server vanished, on an idle connection (keepalive) or a busy one (user timeout)."""
    options: list[tuple[int, int, int]] = keepalive.tcp_keepalive_socket_options(idle=20, interval=5, count=4)
    return [*options, (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 40_000)]


def _find(err: BaseException | None, kind: type[Exception]) -> BaseException | None:
    """Return the first error of ``kind`` among ``err``, its arguments, causes and contexts."""
    seen: set[int] = set()
    waiting = [err]
    while waiting:
        current = waiting.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        if isinstance(current, kind):
            return current
        seen.add(id(current))
        waiting += [current.__cause__, current.__context__, *current.args]
    return None


def _plain(err: BaseException) -> str:
    """Say in words why there was no answer; the libraries' own texts hold object addresses and whole URLs."""
    known: list[tuple[type[Exception], str]] = [
        (urllib3.exceptions.ProxyError, "the proxy gave no connection"),
        (urllib3.exceptions.NameResolutionError, "no such host"),
        (ConnectionRefusedError, "connection refused"),
        (urllib3.exceptions.ReadTimeoutError, "no answer in time"),
        (TimeoutError, "no connection in time"),
    ]
    for kind, words in known:
        if isinstance(err, kind) or _find(err, kind) is not None:
            return words
    system = _find(err, OSError)
    return (getattr(system, "strerror", None) or type(err).__name__).lower()
