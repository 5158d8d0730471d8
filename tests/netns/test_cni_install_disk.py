"""The CNI folder is full, or can't be written: one sentence, and what was installed stays whole."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from cni import install

SIZE = 200_000


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A CNI folder on a disk of its own that takes one version and a half."""
    target = tmp_path / "bin"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE * 3 // 2}", "none", target], check=True)
    yield target
    subprocess.run(["umount", target], check=True)


def make_bundle(folder: pathlib.Path, letter: bytes) -> pathlib.Path:
    bundle = folder / f"bundle-{letter.decode()}"
    (bundle / "_internal").mkdir(parents=True)
    (bundle / "fleetboard").write_bytes(b"\x7fELF" + letter * (SIZE // 2))
    (bundle / "_internal/library").write_bytes(letter * (SIZE // 2))
    return bundle


def test_a_disk_that_fills_in_the_middle_leaves_the_old_version_and_nothing_half_done(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    old = install.install(make_bundle(tmp_path, b"a"), target=folder, host_dir="/node/bin")
    before = (folder / "fleetboard").read_bytes()
    with pytest.raises(install.InstallError) as refused:
        install.install(make_bundle(tmp_path, b"b"), target=folder, host_dir="/node/bin")
    assert str(refused.value) == "can't install into the node's CNI folder '/node/bin': No space left on device"
    assert (folder / "fleetboard").read_bytes() == before
    assert [path.name for path in (folder / ".fleetboard").iterdir()] == [old]


def test_a_read_only_folder_is_one_sentence_for_install_and_removal(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    install.install(make_bundle(tmp_path, b"a"), target=folder, host_dir="/node/bin")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    assert install.install(tmp_path / "bundle-a", target=folder, host_dir="/node/bin"), "it is there already"
    with pytest.raises(install.InstallError, match=r"folder '/node/bin': Read-only file system$"):
        install.install(make_bundle(tmp_path, b"b"), target=folder, host_dir="/node/bin")
    with pytest.raises(install.InstallError, match=r"Read-only file system$"):
        install.remove(folder)
    assert (folder / "fleetboard").read_bytes()
