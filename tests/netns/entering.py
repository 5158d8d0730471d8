"""Run code of a test inside a network namespace, in a thread of its own: setns must not touch the test's thread."""

from __future__ import annotations

import ctypes
import pathlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def enter(namespace: str) -> None:
    """Move the calling thread into the namespace that ``ip netns`` knows by that name."""
    with pathlib.Path(f"/run/netns/{namespace}").open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def inside(namespace: str, action: Callable[[], T]) -> T:
    """Return what ``action`` returns in that namespace, or raise what it raises."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            enter(namespace)
            outcome.append(action())
        except BaseException as err:
            failure.append(err)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(60)
    if failure:
        raise failure[0]
    return outcome[0]
