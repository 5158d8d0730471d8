"""The parts of the official client (package ``kubernetes``) that we use, without the rest of it.

Importing any of its modules runs its ``__init__``, which imports dynamic clients, streams, leader election and OAuth,
and these pydantic, requests and oauthlib: 16 to 19 MB of each of our processes, and half of the time to their start.
Here its modules are imported under bare packages instead. One invariant: those are gone again once this module is
there, so that whoever imports ``kubernetes`` gets all of it, with the very modules that we have (imported by name: a
module that was there before is no attribute of its package).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _bare(*packages: str) -> Iterator[None]:
    """Have packages whose ``__init__`` didn't run, while inside, where they aren't imported yet."""
    made = []
    for package in packages:
        if package in sys.modules:
            continue
        found = importlib.util.find_spec(package)
        if found is None or found.submodule_search_locations is None:
            raise ModuleNotFoundError(f"package {package!r} is not installed", name=package)
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = list(found.submodule_search_locations)
        sys.modules[package] = importlib.util.module_from_spec(spec)
        made.append(package)
    try:
        yield
    finally:
        for package in made:
            del sys.modules[package]


with _bare("kubernetes", "kubernetes.config", "kubernetes.utils"):
    configuration = importlib.import_module("kubernetes.client.configuration")
    rest = importlib.import_module("kubernetes.client.rest")
    incluster_config = importlib.import_module("kubernetes.config.incluster_config")
    config_exception = importlib.import_module("kubernetes.config.config_exception")
    keepalive = importlib.import_module("kubernetes.utils.keepalive")
