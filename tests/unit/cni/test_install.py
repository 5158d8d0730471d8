"""The CNI executable gets onto a node whole, and leaves it without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from cni import install, versions


def make_bundle(folder: pathlib.Path, *, content: bytes = b"") -> pathlib.Path:
    bundle = folder / f"bundle-{len(content)}"
    bundle.mkdir()
    (bundle / "fleetboard").write_bytes(b"\x7fELF..." + content)
    return bundle


def test_the_link_is_relative_and_leads_to_an_executable(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    version = install.install(make_bundle(tmp_path), target=target)
    link = target / "fleetboard"
    assert os.readlink(link) == f".fleetboard/{version}/fleetboard"
    assert os.access(link, os.X_OK)


def test_the_same_bundle_again_changes_nothing(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    bundle = make_bundle(tmp_path)
    first = install.install(bundle, target=target)
    before = (target / "fleetboard").resolve().stat().st_mtime_ns
    assert install.install(bundle, target=target) == first
    assert (target / "fleetboard").resolve().stat().st_mtime_ns == before


@contextlib.contextmanager
def running(executable: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program from where an installed one lies, as a call would that is under way."""
    shutil.copy("/bin/sleep", executable)
    process = subprocess.Popen([executable, "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_old_versions_go_but_for_one_that_a_call_still_runs_from(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    bundles = [make_bundle(tmp_path, content=b"x" * size) for size in (1, 2, 3, 4)]
    first, second = (install.install(bundle, target=target) for bundle in bundles[:2])
    store = target / ".fleetboard"
    assert {path.name for path in store.iterdir()} == {second}
    with running((target / "fleetboard").resolve()):
        third = install.install(bundles[2], target=target)
        assert {path.name for path in store.iterdir()} == {second, third}
        (target / "fleetboard").resolve().read_bytes()
    fourth = install.install(bundles[3], target=target)
    assert {path.name for path in store.iterdir()} == {fourth}
    assert len({first, second, third, fourth}) == 4


def test_a_running_executable_is_distinguished_from_one_that_is_not(tmp_path: pathlib.Path) -> None:
    executable = tmp_path / "fleetboard"
    assert versions.is_running(executable) is False
    with running(executable):
        assert versions.is_running(executable) is True
    assert versions.is_running(executable) is False


def test_removing_waits_for_a_call_that_is_under_way(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    install.install(make_bundle(tmp_path), target=target)
    executable = (target / "fleetboard").resolve()
    shutil.copy("/bin/sleep", executable)
    with subprocess.Popen([executable, "0.3"]) as process:
        install.remove(target)
        assert process.poll() is not None, "it had ended before its folder went"
    assert list(target.iterdir()) == []
    install.install(make_bundle(tmp_path, content=b"y"), target=target)
    with running((target / "fleetboard").resolve()):
        install.remove(target, wait_s=0.1)
    assert list(target.iterdir()) == []


AUDITED = ("open", "os.", "shutil.")


def die_before_step(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is gone just before its n-th step on the filesystem; return whether it finished."""
    child = os.fork()
    if child == 0:
        seen = 0

        def audit(event: str, _arguments: object) -> None:
            nonlocal seen
            if event.startswith(AUDITED):
                seen += 1
                if seen == step:
                    os._exit(7)

        sys.addaudithook(audit)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def content_of(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_install_that_dies_between_any_two_steps_leaves_the_old_or_the_new_whole(tmp_path: pathlib.Path) -> None:
    bundles = [make_bundle(tmp_path, content=content) for content in (b"", b"new")]
    wholes = []
    for bundle in bundles:
        install.install(bundle, target=_made(tmp_path / "whole"))
        wholes.append(content_of((tmp_path / "whole/fleetboard").resolve().parent))
    step, finished = 0, False
    while not finished:
        step += 1
        target = _made(tmp_path / f"bin-{step}")
        install.install(bundles[0], target=target)
        finished = die_before_step(step, lambda: install.install(bundles[1], target=target))  # noqa: B023
        found = content_of((target / "fleetboard").resolve(strict=True).parent)
        assert found in wholes, f"died before step {step}"
        version = install.install(bundles[1], target=target)
        assert content_of(target / ".fleetboard" / version) == wholes[1]
        assert sorted(path.name for path in target.iterdir()) == [".fleetboard", "fleetboard"]
        assert [path.name for path in (target / ".fleetboard").iterdir()] == [version]
    assert step > 20


def test_a_first_install_that_dies_leaves_nothing_callable_or_all(tmp_path: pathlib.Path) -> None:
    bundle = make_bundle(tmp_path)
    install.install(bundle, target=_made(tmp_path / "whole"))
    whole = content_of((tmp_path / "whole/fleetboard").resolve().parent)
    step, finished = 0, False
    while not finished:
        step += 1
        target = _made(tmp_path / f"bin-{step}")
        finished = die_before_step(step, lambda: install.install(bundle, target=target))  # noqa: B023
        link = target / "fleetboard"
        assert not link.is_symlink() or content_of(link.resolve(strict=True).parent) == whole
        install.remove(target)
        assert list(target.iterdir()) == [], f"died before step {step}"
    assert step > 15


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_removing_leaves_nothing_and_other_plugins_alone(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    (target / "bridge").write_text("theirs")
    install.install(make_bundle(tmp_path), target=target)
    install.remove(target)
    install.remove(target)
    assert [path.name for path in target.iterdir()] == ["bridge"]


def test_an_incomplete_bundle_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(install.InstallError, match="no CNI bundle"):
        install.install(tmp_path / "empty", target=target)
    assert list(target.iterdir()) == []


def main(monkeypatch: pytest.MonkeyPatch, bundle: pathlib.Path, target: pathlib.Path) -> int:
    for name, value in (("BUNDLE", str(bundle)), ("CNI_BIN_DIR", str(target)), ("CNI_BIN_DIR_HOST", "/node/bin")):
        monkeypatch.setenv(name, value)
    return install.main()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_folder_that_is_not_there_is_one_sentence_with_the_nodes_name_of_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, make_bundle(tmp_path), tmp_path / "none") == 1
    (said,) = lines(capsys)
    assert {"component": "cnf", "logger": "cni.install", "level": "error"}.items() <= said.items()
    assert said["msg"] == "can't install into the node's CNI folder '/node/bin': No such file or directory"


def test_a_folder_that_multus_does_not_use_is_warned_of(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = _made(tmp_path / "bin")
    assert main(monkeypatch, make_bundle(tmp_path), target) == 0
    warning = lines(capsys)[-1]
    assert warning["level"] == "warning"
    assert "/node/bin holds no multus-shim or multus" in warning["msg"]
    (target / "multus-shim").touch()
    assert main(monkeypatch, make_bundle(tmp_path, content=b"x"), target) == 0
    assert [line["level"] for line in lines(capsys)] == ["info"]
