"""Takes everything of ours off the node: the last step of an uninstall, run where the node's folders are mounted.

Multus remembers how each pod was wired, and asks our executable to unwire it when the pod ends, even long after it is
gone; the pod would then be Terminating for ever (Multus fails the whole DEL, and kubelet tries again). So that memory
is part of what is taken away. Nobody else's network in it is touched.

One invariant: every step may be repeated, and what isn't there is fine.
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
"""Below /var/lib: Multus' default ``cniDir``. Files named after containers, and results that libcni keeps."""
RESULTS = (pathlib.Path("cni/multus/results"), pathlib.Path("cni/results"))
FOLDER = "fleetboard"


def is_ours(config: object) -> bool:
    """Whether a CNI configuration, or any of its list of plugins, calls our executable."""
    if not isinstance(config, dict):
        return False
    plugins = config.get("plugins") or []
    return config.get("type") == install.NAME or (isinstance(plugins, list) and any(map(is_ours, plugins)))


def without_ours(remembered: str) -> str | None:
    """Return what Multus remembers of a pod without our network; None when it holds nothing of ours."""
    try:
        delegates = json.loads(remembered)
    except ValueError:
        return None
    if not isinstance(delegates, list):
        return None
    kept = [one for one in delegates if not _is_ours_delegate(one)]
    return json.dumps(kept, separators=(",", ":")) if len(kept) < len(delegates) else None


def _is_ours_delegate(delegate: object) -> bool:
    return isinstance(delegate, dict) and (is_ours(delegate.get("Conf")) or is_ours(delegate.get("ConfList")))


def is_our_result(kept: str) -> bool:
    """Whether a result that libcni keeps is one of our executable."""
    try:
        entry: dict[str, Any] = json.loads(kept)
        return is_ours(json.loads(base64.b64decode(entry["config"])))
    except (ValueError, KeyError, TypeError, binascii.Error):
        return False


def forget_attachments(var_lib: pathlib.Path) -> int:
    """Take our network out of what Multus and libcni remember of running pods; return how many pods had it."""
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
        # First: while the executable is there, a pod that ends meanwhile is unwired by it.
        forgotten = forget_attachments(var_lib)
        install.remove(pathlib.Path(os.environ.get("CNI_BIN_DIR", "/host/cni-bin")))
        for folder in (var_lib / FOLDER, run / FOLDER):
            if folder.is_dir():
                shutil.rmtree(folder)
    except (install.InstallError, OSError) as err:
        sys.stderr.write(f"the node is not clean: {err}\n")
        return 1
    sys.stderr.write(f"the node holds nothing of Fleetboard; {forgotten} running pods had an interface of it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
