"""Serves the DELs of the time without cnf: the CNI executable left them as files and reported success.

A file is removed only after its DEL was served. A crash in between serves the DEL twice, which changes nothing.
"""

from __future__ import annotations

import logging
import pathlib
import threading
from collections.abc import Callable

import msgspec

from cnf.attach import errors, frames

log = logging.getLogger(__name__)

_PERIOD_S = 3.0
"""How often the folder is listed. A spooled DEL only frees addresses; its pod has ended."""


class Spool:
    """The folder of spooled DELs."""

    def __init__(self, folder: pathlib.Path, call: Callable[[frames.Request], frames.Response]) -> None:
        """``call`` serves one DEL; ``folder`` need not exist."""
        self._folder = folder
        self._call = call

    def replay(self) -> int:
        """Serve the spooled DELs, oldest first; return how many were served."""
        try:
            waiting = sorted((path.stat().st_mtime, path) for path in self._folder.iterdir() if _is_complete(path))
        except FileNotFoundError:
            return 0
        return sum(self._replay_one(path, issued_at) for issued_at, path in waiting)

    def run(self, stop: threading.Event) -> None:
        """Replay every few seconds until ``stop`` is set."""
        while True:
            try:
                self.replay()
            except OSError as err:
                log.error("could not read spooled DELs", extra={"path": str(self._folder), "error": str(err)})
            if stop.wait(_PERIOD_S):
                return

    def _replay_one(self, path: pathlib.Path, issued_at: float) -> bool:
        try:
            request = frames.parse_request(path.read_bytes())
        except errors.FrameError as err:
            log.error("dropped a damaged spooled DEL", extra={"path": str(path), "error": str(err)})
            path.unlink(missing_ok=True)
            return False
        except FileNotFoundError:
            return False
        if request.env.get("CNI_COMMAND") != "DEL":
            log.error("dropped a spooled call that is not a DEL", extra={"path": str(path)})
            path.unlink(missing_ok=True)
            return False
        try:
            response = self._call(frames.Request(request.env, request.stdin, issued_at=issued_at))
        except Exception:
            # A call that fails here must not end the process at every start; a sweep frees what it would have freed.
            log.exception("dropped a spooled DEL that failed", extra={"path": str(path)})
            path.unlink(missing_ok=True)
            return False
        if response.code:
            log.error("could not serve a spooled DEL", extra={"path": str(path), "answer": response.stdout.decode()})
            if _is_hopeless(response):
                path.unlink(missing_ok=True)
            return False
        path.unlink(missing_ok=True)
        return True


def _is_complete(path: pathlib.Path) -> bool:
    # The executable writes under a name with a leading dot and renames.
    return not path.name.startswith(".") and path.is_file()


def _is_hopeless(response: frames.Response) -> bool:
    """Return whether the call itself is wrong, so that no later try can serve it."""
    code = int(msgspec.json.decode(response.stdout).get("code", 0))
    return 0 < code < errors.Code.TRY_AGAIN
