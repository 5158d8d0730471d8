"""DELs that were spooled while cnf did not run."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from cnf.attach import frames, spool


class Recorder:
    """Answers calls and remembers them."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.served: list[frames.Request] = []

    def __call__(self, request: frames.Request) -> frames.Response:
        self.served.append(request)
        return frames.Response(1, json.dumps({"code": self.code}).encode()) if self.code else frames.Response(0, b"")


def leave(folder: pathlib.Path, name: str, *, at: float, command: str = "DEL") -> None:
    path = folder / name
    path.write_bytes(frames.render_request({"CNI_COMMAND": command, "CNI_CONTAINERID": name}, b"{}"))
    os.utime(path, (at, at))


def test_waiting_deletions_are_served_in_order_and_removed(tmp_path: pathlib.Path) -> None:
    leave(tmp_path, "b-net1", at=200)
    leave(tmp_path, "a-net1", at=300)
    leave(tmp_path, ".half-net1", at=100)
    calls = Recorder()
    assert spool.Spool(tmp_path, calls).replay() == 2
    assert [(r.env["CNI_CONTAINERID"], r.issued_at) for r in calls.served] == [("b-net1", 200), ("a-net1", 300)]
    assert [path.name for path in tmp_path.iterdir()] == [".half-net1"]


def test_a_deletion_that_failed_for_now_stays(tmp_path: pathlib.Path) -> None:
    leave(tmp_path, "a-net1", at=1)
    assert spool.Spool(tmp_path, Recorder(code=11)).replay() == 0
    assert (tmp_path / "a-net1").exists()
    assert spool.Spool(tmp_path, Recorder()).replay() == 1


@pytest.mark.parametrize("code", [1, 4, 6, 7])
def test_a_deletion_that_can_never_be_served_is_dropped(tmp_path: pathlib.Path, code: int) -> None:
    leave(tmp_path, "a-net1", at=1)
    spool.Spool(tmp_path, Recorder(code=code)).replay()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_deletion_is_dropped_unserved(tmp_path: pathlib.Path) -> None:
    leave(tmp_path, "a-net1", at=1, command="ADD")
    (tmp_path / "b-net1").write_bytes(b"FLEETCNI/1 40 2\ncut o")
    calls = Recorder()
    assert spool.Spool(tmp_path, calls).replay() == 0
    assert (calls.served, list(tmp_path.iterdir())) == ([], [])


def test_a_deletion_that_trips_us_is_dropped_and_the_next_is_served(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, "a-net1", at=1)
    leave(tmp_path, "b-net1", at=2)
    served: list[str] = []

    def trip(request: frames.Request) -> frames.Response:
        if request.env["CNI_CONTAINERID"] == "a-net1":
            raise RecursionError("too deep")
        served.append(request.env["CNI_CONTAINERID"])
        return frames.Response(0, b"")

    with caplog.at_level("CRITICAL"):
        assert spool.Spool(tmp_path, trip).replay() == 1
    assert served == ["b-net1"]
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_an_empty_one(tmp_path: pathlib.Path) -> None:
    assert spool.Spool(tmp_path / "none", Recorder()).replay() == 0
