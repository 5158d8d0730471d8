"""Removes all of Fleetboard from the node: the last step of an uninstall, run where the node's folders are mounted.

Multus remembers how each pod was attached, and calls the plugin again when the pod ends. Without the executable, Multus
would fail the whole DEL and the pod would be Terminating forever. So this also removes Fleetboard's network from what
Multus and libcni remember, and leaves other networks there alone.

Every step may be repeated, and an absent file is fine.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import pathlib
import shutil
import sys
from typing import Any

from cni import install

MULTUS = pathlib.Path("cni/multus")
"""Multus' default ``cniDir``, below /var/lib: files named after containers."""
RESULTS = (pathlib.Path("cni/multus/results"), pathlib.Path("cni/results"))
"""Folders of results that libcni keeps, below /var/lib."""
FOLDER = "fleetboard"


def is_ours(config: object) -> bool:
    """Return whether a CNI configuration, or one of its list of plugins, calls our executable."""
    if not isinstance(config, dict):
        return False
    plugins = config.get("plugins") or []
    return config.get("type") == install.NAME or (isinstance(plugins, list) and any(map(is_ours, plugins)))


def without_ours(remembered: str) -> str | None:
    """Return what Multus remembers of a pod, without our network; None when our network is not in it."""
    try:
        delegates = json.loads(remembered)
    except ValueError:
        return None
    if not isinstance(delegates, list):
        return None
    kept = [delegate for delegate in delegates if not _is_ours_delegate(delegate)]
    return json.dumps(kept, separators=(",", ":")) if len(kept) < len(delegates) else None


def _is_ours_delegate(delegate: object) -> bool:
    return isinstance(delegate, dict) and (is_ours(delegate.get("Conf")) or is_ours(delegate.get("ConfList")))


def is_our_result(kept: str) -> bool:
    """Return whether a result that libcni keeps came from our executable."""
    try:
        entry: dict[str, Any] = json.loads(kept)
        return is_ours(json.loads(base64.b64decode(entry["config"])))
    except (ValueError, KeyError, TypeError, binascii.Error):
        return False


def forget_attachments(var_lib: pathlib.Path) -> int:
    """Remove our network from what Multus and libcni remember of running pods; return how many pods had it."""
    changed = 0
    for path in _files(var_lib / MULTUS):
        rest = without_ours(path.read_text(errors="replace"))
        if rest is not None:
            temporary = path.with_name(f".{path.name}.new")
            temporary.write_text(rest)
            temporary.chmod(path.stat().st_mode & 0o777)
            temporary.rename(path)
            changed += 1
    for folder in RESULTS:
        for path in _files(var_lib / folder):
            if is_our_result(path.read_text(errors="replace")):
                path.unlink(missing_ok=True)
    return changed


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def main() -> int:
    """Clean the node; return the exit status."""
    var_lib = pathlib.Path(os.environ.get("VAR_LIB", "/host/var-lib"))
    run = pathlib.Path(os.environ.get("RUN", "/host/run"))
    try:
        # First: while the executable is there, it detaches a pod that ends meanwhile.
        forgotten = forget_attachments(var_lib)
        install.remove(pathlib.Path(os.environ.get("CNI_BIN_DIR", "/host/cni-bin")))
        for folder in (var_lib / FOLDER, run / FOLDER):
            if folder.is_dir():
                shutil.rmtree(folder)
    except (install.InstallError, OSError) as err:
        sys.stderr.write(f"could not clean the node: {err}\n")
        return 1
    sys.stderr.write(f"removed Fleetboard from the node; {forgotten} running pods had a Fleetboard interface\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
