"""An rtnetlink socket that sends batches and collects one acknowledgement for each message.

Invariant: after a call, the socket holds no unread answer to it, or is closed. So an answer is never taken for that of
a later request.
"""

from __future__ import annotations

import socket
import types
from collections.abc import Sequence

from cnf.netlink import errors, wire

# include/uapi/linux/netlink.h
_SOL_NETLINK = 270
_CAP_ACK = 10
_EXT_ACK = 11
_STRICT_CHECK = 12

_BATCH = 64
"""Messages in one send. Their acknowledgements must fit in the receive buffer: the kernel drops what doesn't."""
_RECEIVE = 1 << 16


def open_socket() -> socket.socket:
    """Open an rtnetlink socket in the calling thread's network namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    # Acknowledgements come without a copy of the request, and with the kernel's own message.
    sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
    return sock


class Connection:
    """One rtnetlink socket. Not thread-safe."""

    def __init__(self, sock: socket.socket, *, timeout_s: float = 10) -> None:
        """Take over ``sock``. It stays in the namespace where it was opened, whichever thread uses it.

        ``timeout_s`` bounds each send and each receive.
        """
        self._socket = sock
        self._socket.settimeout(timeout_s)
        self._sequence = 0
        self.usable = True
        """False once the connection is closed: by ``close``, or by a request without a usable answer."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self.usable = False
        self._socket.close()

    def send(self, messages: Sequence[wire.Message]) -> None:
        """Apply ``messages`` in order.

        The kernel applies the rest of a batch after a message that failed, so the caller of a failed batch undoes all.

        Raises:
            RefusedError: a message failed with an errno that it doesn't tolerate; of several, the first.
            SilentKernelError: no usable answer; the connection is closed.
        """
        for start in range(0, len(messages), _BATCH):
            self._send_batch(messages[start : start + _BATCH])

    def ask(self, question: wire.Message, *, allow_torn: bool = False) -> list[wire.KernelMessage]:
        """Return the kernel's answers to a GET: one, or with ``Flag.DUMP`` all.

        A dump whose table changed meanwhile is retried, unless ``allow_torn``. A torn dump may lack new entries and
        list deleted ones; on kernels before 6.9 it may even lack entries that existed all the time.

        Raises:
            AbsentError: the object doesn't exist.
            RefusedError: the kernel refuses for another reason.
            SilentKernelError: no usable answer; the connection is closed.
            UnstableError: the table changed during each of five dumps.
        """
        dump = question.flags & wire.Flag.DUMP == wire.Flag.DUMP
        for _ in range(5):
            sequence = self._transmit([question])
            answers: list[wire.KernelMessage] = []
            interrupted = False
            while True:
                answer = self._receive_one(sequence)
                interrupted |= bool(answer.flags & wire.Flag.DUMP_INTERRUPTED)
                if answer.type in (wire.ERROR, wire.DONE):
                    if answer.code:
                        raise errors.refused(answer.code, question.action, answer.detail)
                    break
                answers.append(answer)
                if not dump:
                    break
            if allow_torn or not interrupted:
                return answers
        raise errors.UnstableError(f"{question.action}: the table changed during five dumps in a row")

    def _send_batch(self, messages: Sequence[wire.Message]) -> None:
        first = self._transmit(messages)
        failure: errors.RefusedError | None = None
        for offset, message in enumerate(messages):
            answer = self._receive_one(first + offset)
            if answer.code and answer.code not in message.tolerate and failure is None:
                failure = errors.refused(answer.code, message.action, answer.detail)
        if failure is not None:
            raise failure

    def _transmit(self, messages: Sequence[wire.Message]) -> int:
        first = self._sequence + 1
        self._sequence += len(messages)
        self._pending: list[wire.KernelMessage] = []
        try:
            self._socket.send(b"".join(m.encode(first + offset) for offset, m in enumerate(messages)))
        except OSError as err:
            self.close()
            raise errors.SilentKernelError(f"{messages[0].action}: can't send to the kernel: {err}") from err
        return first

    def _receive_one(self, sequence: int) -> wire.KernelMessage:
        while True:
            if not self._pending:
                try:
                    self._pending = list(wire.answers(self._socket.recv(_RECEIVE)))[::-1]
                except OSError as err:
                    self.close()
                    raise errors.SilentKernelError(f"no answer from the kernel: {err}") from err
                continue
            answer = self._pending.pop()
            if answer.sequence == sequence:
                return answer
            if answer.sequence > sequence:
                self.close()
                raise errors.SilentKernelError(
                    f"the kernel answered request {answer.sequence} when {sequence} was expected"
                )
