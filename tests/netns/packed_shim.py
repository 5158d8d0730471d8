"""The packed CNI executable, built once for each content of its sources and kept where the lab keeps its tools.

Tests and benches take it from here and not out of the image: it is made by the same script, without Docker.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import time

from cni import install as installer

ROOT = pathlib.Path(__file__).parents[2]
STORE = pathlib.Path(os.environ.get("FLEETBOARD_CACHE") or pathlib.Path.home() / ".cache/fleetboard") / "shim"
SOURCES = ("cni/shim.py", "hack/images/bootloader.c", "hack/images/build-bundle", "uv.lock")
PYTHON = "/usr/bin/python3"
"""The distribution's: it has the static library."""


def pack() -> pathlib.Path:
    """Return the folder of the bundle; pack it when it isn't there."""
    version = subprocess.run([PYTHON, "-VV"], capture_output=True, timeout=30, check=True).stdout
    digest = hashlib.sha256(version)
    for source in SOURCES:
        digest.update((ROOT / source).read_bytes())
    bundle = STORE / digest.hexdigest()[:12]
    STORE.mkdir(parents=True, exist_ok=True)
    with (STORE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.is_dir():
            _pack(bundle)
    return bundle


def _pack(bundle: pathlib.Path) -> None:
    venv = STORE / "venv"
    environ = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv), "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    draft = STORE / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    for command in (
        ["hack/uv", "sync", "--locked", "--only-group", "shim", "--no-install-project", "--python", PYTHON],
        ["hack/images/build-bundle", "cni/shim.py", str(draft)],
    ):
        done = subprocess.run(command, cwd=ROOT, env=environ, text=True, capture_output=True, timeout=280, check=False)
        if done.returncode:
            raise RuntimeError(f"packing the CNI executable failed: {' '.join(command)}: {done.stdout}{done.stderr}")
    draft.rename(bundle)


def install(bundle: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Install a bundle as cnf's container does when it starts; return the executable's path."""
    folder.mkdir(parents=True, exist_ok=True)
    installer.install(bundle, target=folder)
    return folder / installer.NAME


def peak_memory(executable: pathlib.Path) -> int:
    """Return the most bytes a call holds by the time it reads its stdin: from there on it only sends what it reads."""
    with subprocess.Popen([executable], env={"CNI_COMMAND": "STATUS"}, stdin=subprocess.PIPE) as process:
        kernel = pathlib.Path(f"/proc/{process.pid}")
        try:
            deadline = time.monotonic() + 10
            while not (kernel / "wchan").read_text().endswith("pipe_read"):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{executable} does not read its stdin within 10 s")
                time.sleep(0.01)
            found = re.search(r"VmHWM:\s+(\d+) kB", (kernel / "status").read_text())
        finally:
            process.kill()
    assert found is not None
    return int(found[1]) * 1024
