"""The executable that Multus calls for every pod: carries one CNI call to the node's cnf and prints its answer.

It is small, because every pod's start waits for it. It imports three built-in modules and nothing else (the packed
executable holds no others), and leaves every decision to cnf. By itself it answers only what needs no cnf: VERSION, a
configuration that can't be read, and a call while cnf is away.

Invariant: exactly one CNI answer, or none for a DEL, reaches stdout (CNI spec 1.1.0, "Section 2: Execution").
"""

import _socket
import posix
import sys

SOCKET = b"/run/fleetboard/cni.sock"
SPOOL = b"/run/fleetboard/del"
VERSION = b'{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
CONNECT_S = 10  # longer than cnf takes to restart
DEL_CONNECT_S = 2  # after that the DEL is spooled, which suffices
ANSWER_S = 30  # longer than cnf waits for anything
MAX_CONFIG = 1 << 20  # cnf accepts no more
RETRY_S = 0.05
ENOENT, ECONNREFUSED, EAGAIN = 2, 111, 11


class UnsendableError(Exception):
    """A call that the shim refuses by itself; the arguments are the CNI error code and the message."""


def read_config(descriptor: int) -> bytes:
    """Read the configuration from standard input to its end.

    Raises:
        UnsendableError: it can't be read, or doesn't end.
    """
    chunks = []
    left = MAX_CONFIG
    try:
        while chunk := posix.read(descriptor, 65536):
            chunks.append(chunk)
            left -= len(chunk)
            if left < 0:
                raise UnsendableError(6, b"the network configuration on stdin is longer than %d bytes" % MAX_CONFIG)
    except OSError as err:
        raise UnsendableError(
            5, b"the network configuration can't be read from stdin: errno %d" % (err.errno or 0)
        ) from err
    return b"".join(chunks)


def version_of(config: bytes) -> bytes:
    """Find cniVersion in the configuration without a JSON parser, to echo it in an error."""
    _, found, tail = config.partition(b'"cniVersion"')
    parts = tail.split(b'"', 2)
    if not found or len(parts) < 3 or parts[0].strip() != b":" or not parts[1].replace(b".", b"").isdigit():
        return b"1.0.0"
    return parts[1]


def error(config: bytes, code: int, message: bytes) -> bytes:
    """Render a CNI error result; ``message`` holds no character that JSON escapes."""
    return b'{"cniVersion":"%s","code":%d,"msg":"%s"}' % (version_of(config), code, message)


def connect(patience_s: float) -> _socket.socket | None:
    """Connect to cnf, or return None when it stays away for that long."""
    waited = 0.0
    while True:
        stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        # Before it connects: a cnf that no longer accepts must not block the call.
        stream.settimeout(ANSWER_S)
        try:
            stream.connect(SOCKET)
        except OSError as err:
            stream.close()
            if err.errno not in (ENOENT, ECONNREFUSED, EAGAIN) or waited >= patience_s:
                return None
        else:
            return stream
        pause()
        waited += RETRY_S


def pause() -> None:
    """Sleep without importing ``time``, by a receive that times out."""
    silent, peer = _socket.socketpair()
    silent.settimeout(RETRY_S)
    try:  # noqa: SIM105 - contextlib would be one more import
        silent.recv(1)
    except OSError:
        pass
    silent.close()
    peer.close()


def frame(environ: dict[bytes, bytes], config: bytes) -> bytes:
    """Frame the call: every CNI_ variable and the configuration."""
    env = b"\0".join(b"%s=%s" % pair for pair in environ.items() if pair[0].startswith(b"CNI_"))
    return b"FLEETCNI/1 %d %d\n%s%s" % (len(env), len(config), env, config)


def send(stream: _socket.socket, request: bytes, netns: int) -> None:
    """Send the frame, with the descriptor of the pod's network namespace beside its first byte (SCM_RIGHTS)."""
    rest = request
    if netns >= 0:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, netns.to_bytes(4, sys.byteorder))
        sent = stream.sendmsg([request], [rights])
        rest = request[sent:]
    if rest:  # to send nothing fails too, once cnf has answered and closed the connection
        stream.sendall(rest)


def receive(stream: _socket.socket) -> tuple[int, bytes]:
    """Read the answer: exit status and the bytes for stdout.

    Raises:
        OSError: cnf closed the connection, or was silent for ANSWER_S.
    """
    chunks = []
    while chunk := stream.recv(65536):
        chunks.append(chunk)
    head, newline, body = b"".join(chunks).partition(b"\n")
    status, _, size = head.partition(b" ")
    if not newline or int(size) != len(body):
        raise OSError
    return int(status), body


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it."""
    while content:
        content = content[posix.write(descriptor, content) :]


def open_netns(path: bytes) -> int:
    """Open the pod's network namespace, or return -1: cnf decides what a missing one means for each verb."""
    if not path:
        return -1
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return -1


def is_own(netns: int) -> bool:
    """Return whether that is the namespace of this process, the host's; cnf can't see it."""
    try:
        theirs, ours = posix.fstat(netns), posix.stat(b"/proc/self/ns/net")
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def spool(environ: dict[bytes, bytes], request: bytes) -> bool:
    """Spool a DEL for cnf to do when it is back; return whether nothing can be lost.

    Without the folder cnf is not installed, and there is nothing to free.
    """
    container, interface = environ.get(b"CNI_CONTAINERID", b""), environ.get(b"CNI_IFNAME", b"")
    name = b"%s-%s" % (container, interface)
    # A leading dot marks a file that is being written.
    if not container[:1].isalnum() or b"/" in name or len(name) > 200:
        return False
    try:
        temporary = b"%s/.%s" % (SPOOL, name)
        descriptor = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600)
        write_all(descriptor, request)
        posix.fsync(descriptor)
        posix.close(descriptor)
        posix.rename(temporary, b"%s/%s" % (SPOOL, name))
    except OSError as err:
        return err.errno == ENOENT
    return True


def away(environ: dict[bytes, bytes], config: bytes, request: bytes) -> tuple[int, bytes]:
    """Answer in place of cnf: spool a DEL (CNI spec: DEL should succeed), have every other call tried again."""
    command = environ.get(b"CNI_COMMAND", b"")
    if command == b"DEL" and spool(environ, request):
        return 0, b""
    code = 50 if command == b"STATUS" else 11
    return 1, error(config, code, b"cnf on this node does not answer at %s: is its pod running?" % SOCKET)


def call(environ: dict[bytes, bytes], config: bytes) -> tuple[int, bytes]:
    """Hand the call to cnf; return the exit status and what to print."""
    request = frame(environ, config)
    netns = open_netns(environ.get(b"CNI_NETNS", b""))
    if environ.get(b"CNI_COMMAND") == b"ADD" and is_own(netns):
        return 1, error(config, 8, b"CNI_NETNS is the network namespace of the plugin itself: expected the container's")
    stream = connect(DEL_CONNECT_S if environ.get(b"CNI_COMMAND") == b"DEL" else CONNECT_S)
    if stream is None:
        return away(environ, config, request)
    try:
        send(stream, request, netns)
        return receive(stream)
    except (OSError, ValueError):
        return away(environ, config, request)


def main(environ: dict[bytes, bytes]) -> int:
    """Carry one call; return the exit status."""
    if environ.get(b"CNI_COMMAND") == b"VERSION":
        posix.write(1, VERSION)
        return 0
    if b"CNI_COMMAND" not in environ:
        posix.write(2, b"CNI plugin fleetboard: called by Multus. CNI versions 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n")
        return 0
    try:
        config = read_config(0)
    except UnsendableError as err:
        write_all(1, error(b"", *err.args))
        return 1
    status, body = call(environ, config)
    write_all(1, body)
    return status


if __name__ == "__main__":
    posix._exit(main(posix.environ))
