"""Puts the packed CNI executable into the node's CNI folder, and takes it away again (``cni.remove``).

Runs beside cnf whenever its container starts. The bundle is a folder, so it is copied under a version of its own and
made current by renaming a relative symlink: relative, because Multus resolves it both inside its own container and on
the host.

One invariant: at every moment the CNI folder holds either no ``fleetboard`` or a complete one.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import sys

NAME = "fleetboard"
STORE = ".fleetboard"
KEPT_VERSIONS = 2
"""The current one, and the one before for calls that are under way."""


class InstallError(Exception):
    """The CNI folder or the bundle can't be used; the sentence says why."""


def bundle_version(bundle: pathlib.Path) -> str:
    """Name a bundle by its content, so that installing the same one twice changes nothing."""
    digest = hashlib.sha256()
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(bundle)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def install(bundle: pathlib.Path, *, target: pathlib.Path) -> str:
    """Install ``bundle`` into ``target``; return the version installed.

    Raises:
        InstallError: the bundle is incomplete or the folder can't be written.
    """
    if not (bundle / NAME).is_file():
        raise InstallError(f"no CNI bundle in {str(bundle)!r}: expected {NAME}")
    try:
        version = bundle_version(bundle)
        store = target / STORE
        place = store / version
        if not place.is_dir():
            _copy(bundle, place)
        _point(target / NAME, f"{STORE}/{version}/{NAME}")
        _forget_old(store, version)
    except OSError as err:
        raise InstallError(f"can't install into the CNI folder {str(target)!r}: {err.strerror}") from err
    return version


def remove(target: pathlib.Path) -> None:
    """Take everything of ours out of the CNI folder; what isn't there is fine.

    Raises:
        InstallError: the folder can't be written.
    """
    try:
        (target / NAME).unlink(missing_ok=True)
        shutil.rmtree(target / STORE, ignore_errors=True)
    except OSError as err:
        raise InstallError(f"can't remove {NAME} from the CNI folder {str(target)!r}: {err.strerror}") from err


def _copy(bundle: pathlib.Path, place: pathlib.Path) -> None:
    """Copy to a temporary folder, flush, and rename: a half copied version is never found under its name."""
    temporary = place.with_name(f".{place.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundle, temporary, symlinks=True)
    (temporary / NAME).chmod(0o755)
    os.sync()
    temporary.rename(place)


def _point(link: pathlib.Path, destination: str) -> None:
    """Make ``link`` point to ``destination`` in one step."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(destination)
    temporary.rename(link)


def _forget_old(store: pathlib.Path, current: str) -> None:
    """Remove all but the current version and the newest ones before it."""
    others = [path for path in store.iterdir() if path.is_dir() and path.name != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT_VERSIONS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Install; return the exit status."""
    target = pathlib.Path(os.environ.get("CNI_BIN_DIR", "/host/cni-bin"))
    try:
        host_dir = os.environ.get("CNI_BIN_DIR_HOST", "/opt/cni/bin")
        bundle = pathlib.Path(os.environ.get("BUNDLE", "/opt/fleetboard/cni"))
        version = install(bundle, target=target)
    except InstallError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    sys.stderr.write(f"CNI executable {NAME} {version} is in {host_dir}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
