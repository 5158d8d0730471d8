"""The CNI executable gets onto a node whole, and leaves it without a trace."""

import os
import pathlib

import pytest

from cni import install


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


def test_the_version_before_stays_and_older_ones_go(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    versions = [install.install(make_bundle(tmp_path, content=b"x" * size), target=target) for size in (1, 2, 3)]
    assert {path.name for path in (target / ".fleetboard").iterdir()} == set(versions[1:])


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
