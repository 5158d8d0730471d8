"""Installs the packed CNI executable into the node's CNI folder, and removes it (``cni.remove``).

Runs in cnf's container whenever that starts. The bundle is a folder: it is copied under its version and made current by
renaming a relative symlink. It is relative because Multus resolves it both inside its own container and on the host.

Invariant: at every moment, whatever process dies or disk fills up, the CNI folder holds either no ``fleetboard`` or a
complete one that is on the disk.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import sys
import time

from cni import versions

NAME = "fleetboard"
STORE = ".fleetboard"
DRAFT = ".fleetboard.new"
"""Name of the link before it is put in place."""
CALLERS = ("multus-shim", "multus")
"""Multus' executables, thick and thin: the runtime finds them in its CNI folder, and Multus calls ours from there."""
CALL_S = 5.0
"""How long an uninstall waits for calls in progress."""


class InstallError(Exception):
    """The CNI folder or the bundle can't be used; the message says why."""


def bundle_version(bundle: pathlib.Path) -> str:
    """Name a bundle by its content, so that installing it twice changes nothing."""
    digest = hashlib.sha256()
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(bundle)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def install(bundle: pathlib.Path, *, target: pathlib.Path, host_dir: str = "") -> str:
    """Install ``bundle`` into ``target``, which the node knows as ``host_dir``; return the version installed.

    Raises:
        InstallError: the bundle is incomplete or the folder can't be written.
    """
    if not (bundle / NAME).is_file():
        raise InstallError(f"no CNI bundle in {str(bundle)!r}: expected {NAME}")
    version = bundle_version(bundle)
    store = target / STORE
    try:
        # First, so that the disk holds no more than the running and the new version.
        versions.remove_unused(store, NAME, keep=_current(target))
        if not (store / version).is_dir():
            _copy(bundle, store / version)
        # Nothing is written twice: cnf must start on a node whose disk is full.
        if _current(target) != version:
            _point(target, version)
        versions.remove_unused(store, NAME, keep=version)
    except OSError as err:
        folder = host_dir or str(target)
        raise InstallError(f"can't install into the node's CNI folder {folder!r}: {err.strerror}") from err
    return version


def remove(target: pathlib.Path, *, wait_s: float = CALL_S) -> None:
    """Remove all of Fleetboard from the CNI folder once no call runs from it; an absent file is fine.

    Raises:
        InstallError: the folder can't be written.
    """
    store = target / STORE
    try:
        for link in (target / NAME, target / DRAFT):
            link.unlink(missing_ok=True)
        deadline = time.monotonic() + wait_s
        while any(versions.is_running(path) for path in store.glob(f"*/{NAME}")) and time.monotonic() < deadline:
            time.sleep(0.05)
        versions.remove(store)
    except OSError as err:
        raise InstallError(f"can't remove {NAME} from the CNI folder {str(target)!r}: {err.strerror}") from err


def _current(target: pathlib.Path) -> str:
    """Return the version that the link points to, or nothing."""
    try:
        return (target / NAME).readlink().parent.name
    except OSError:
        return ""


def _copy(bundle: pathlib.Path, place: pathlib.Path) -> None:
    """Copy to a temporary folder, flush, and rename: no incomplete version ever has its final name."""
    draft = place.with_name(f".{place.name}.new")
    place.parent.mkdir(exist_ok=True)
    versions.remove(draft)
    try:
        draft.mkdir()
        for path in sorted(bundle.rglob("*")):
            copy = draft / path.relative_to(bundle)
            if path.is_dir():
                copy.mkdir()
            else:
                _write(copy, path.read_bytes(), path.stat().st_mode & 0o777)
        (draft / NAME).chmod(0o755)
        for folder in (*filter(pathlib.Path.is_dir, draft.rglob("*")), draft):
            _flush(folder)
    except OSError:
        # An incomplete copy must not keep the disk full.
        versions.remove(draft)
        raise
    draft.rename(place)
    _flush(place.parent)


def _write(path: pathlib.Path, content: bytes, mode: int) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), mode)


def _flush(folder: pathlib.Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(target: pathlib.Path, version: str) -> None:
    """Point the link to a version in one step."""
    draft = target / DRAFT
    draft.unlink(missing_ok=True)
    draft.symlink_to(f"{STORE}/{version}/{NAME}")
    draft.rename(target / NAME)
    _flush(target)


def main() -> int:
    """Install; return the exit status."""
    target = pathlib.Path(os.environ.get("CNI_BIN_DIR", "/host/cni-bin"))
    host_dir = os.environ.get("CNI_BIN_DIR_HOST", "/opt/cni/bin")
    try:
        bundle = pathlib.Path(os.environ.get("BUNDLE", "/opt/fleetboard/cni"))
        version = install(bundle, target=target, host_dir=host_dir)
    except InstallError as err:
        _log("error", str(err))
        return 1
    _log("info", f"CNI executable {NAME} {version} is in {host_dir}")
    if not any((target / caller).exists() for caller in CALLERS):
        _log("warning", f"{host_dir} holds no {' or '.join(CALLERS)}: is cni.binDir where this node's Multus looks?")
    return 0


def _log(level: str, sentence: str) -> None:
    """Write a line of cnf's log, in the format of ``fleetboard.runtime.logs``, which cni must not import."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = {"ts": now, "level": level, "component": "cnf", "logger": "cni.install", "msg": sentence}
    sys.stderr.write(f"{json.dumps(line)}\n")


if __name__ == "__main__":
    sys.exit(main())
