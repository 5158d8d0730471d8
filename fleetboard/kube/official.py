"""The parts of the official client (package ``kubernetes``) that Fleetboard uses, without the rest of it.

To import any of its modules runs its ``__init__``, which imports dynamic clients, streams, leader election and OAuth,
and these import pydantic, requests and oauthlib: 16 to 19 MB in each process, and half of its start time. So the few
modules are imported here under bare packages, whose ``__init__`` doesn't run.

Invariant: the bare packages are gone once this module is imported. A later ``import kubernetes`` loads the whole
package, with the same module objects as here. (They are imported by name: a module that was loaded before is not an
attribute of its package.)
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
    """Put packages whose ``__init__`` didn't run in ``sys.modules`` meanwhile, unless they are imported already."""
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
