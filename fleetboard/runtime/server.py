"""Serves /metrics, /healthz and /readyz.

Invariant: slow or many clients take at most ``MAX_REQUESTS`` threads.
"""

from __future__ import annotations

import http.server
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import prometheus_client
from prometheus_client import exposition

log = logging.getLogger(__name__)

MAX_REQUESTS = 16
TIMEOUT_S = 10.0

Check = Callable[[], "str | None"]
Response = tuple[int, str, bytes]


class _HTTPServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # With the default of 5, clients that connect together wait a second for the kernel's next try.
    request_queue_size = 64
    # Binds all addresses of both families, where the kernel has both.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, answer: Callable[[str, str], Response]) -> None:
        self.answer = answer
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Instead of HTTPServer's, which looks up the host's name in DNS.
        super(http.server.HTTPServer, self).server_bind()
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log clients that hang up at debug level only."""
        log.debug("request failed", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    server: _HTTPServer

    def do_GET(self) -> None:
        """Response and close."""
        status, content_type, body = self.server.answer(self.path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "fleetboard"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Write no access log: kubelet and Prometheus ask several times a minute."""


class ObserveServer:
    """A running server; ``close`` ends it."""

    def __init__(self, server: _HTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="observe", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def serve(
    *, port: int, registry: prometheus_client.CollectorRegistry, unhealthy_reason: Check, unready_reason: Check
) -> ObserveServer:
    """Serve in a thread of its own.

    ``unhealthy_reason`` and ``unready_reason`` return None, or a sentence to answer with 503.
    """
    # Creation times double the number of series and have no reader.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

    def answer(path: str, accept: str) -> Response:
        match path.partition("?")[0]:
            case "/metrics":
                encode, content_type = exposition.choose_encoder(accept)
                return 200, content_type, encode(registry)
            case "/healthz":
                return _checked(unhealthy_reason)
            case "/readyz":
                return _checked(unready_reason)
        return _text(404, "try /metrics, /healthz or /readyz")

    return ObserveServer(_HTTPServer(port, answer))


def _checked(check: Check) -> Response:
    try:
        sentence = check()
    except Exception:
        log.exception("health check failed")
        sentence = "the check itself failed; see the log"
    return _text(200, "ok") if sentence is None else _text(503, sentence)


def _text(status: int, text: str) -> Response:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
