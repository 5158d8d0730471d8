"""The CNI executable gets onto a node whole, and leaves it without a trace."""

import os
import pathlib

import pytest

from cni import install


def make_bundle(folder: pathlib.Path, *, content: bytes = b"") -> pathlib.Path:
    bundle = folder / f"bundle-{len(content)}"
    (bundle / "_internal").mkdir(parents=True)
    (bundle / "fleetboard").write_bytes(b"\x7fELF..." + install.PLACEHOLDER + b"..." + content)
    (bundle / "_internal" / install.LOADERS[os.uname().machine]).write_bytes(b"loader")
    return bundle


def test_the_link_is_relative_and_the_loader_is_the_nodes(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    version = install.install(make_bundle(tmp_path), target=target, host_dir="/opt/cni/bin")
    link = target / "fleetboard"
    assert os.readlink(link) == f".fleetboard/{version}/fleetboard"
    loader = f"/opt/cni/bin/.fleetboard/{version}/_internal/{install.LOADERS[os.uname().machine]}".encode()
    assert loader + b"\0" in link.read_bytes()
    assert install.PLACEHOLDER not in link.read_bytes()


def test_the_same_bundle_again_changes_nothing(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    bundle = make_bundle(tmp_path)
    first = install.install(bundle, target=target, host_dir="/x")
    before = (target / "fleetboard").resolve().stat().st_mtime_ns
    assert install.install(bundle, target=target, host_dir="/x") == first
    assert (target / "fleetboard").resolve().stat().st_mtime_ns == before


def test_the_version_before_stays_and_older_ones_go(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    versions = [
        install.install(make_bundle(tmp_path, content=b"x" * size), target=target, host_dir="/x") for size in (1, 2, 3)
    ]
    assert {path.name for path in (target / ".fleetboard").iterdir()} == set(versions[1:])


def test_removing_leaves_nothing_and_other_plugins_alone(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    (target / "bridge").write_text("theirs")
    install.install(make_bundle(tmp_path), target=target, host_dir="/x")
    install.remove(target)
    install.remove(target)
    assert [path.name for path in target.iterdir()] == ["bridge"]


def test_an_incomplete_bundle_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(install.InstallError, match="no CNI bundle"):
        install.install(tmp_path / "empty", target=target, host_dir="/x")
    assert list(target.iterdir()) == []


def test_a_loader_path_that_does_not_fit_is_refused() -> None:
    with pytest.raises(install.InstallError, match="longer than"):
        install.with_interpreter(install.PLACEHOLDER, "/" + "x" * 300)
