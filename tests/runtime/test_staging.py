"""Folders and files that are written whole or not at all, also where two processes write the same one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acd_edge.errors import OutputError
from acd_edge.runtime.staging import staged_folder


def write(path: Path, content: str) -> None:
    with staged_folder(path) as folder:
        (folder / "file").write_text(content)


@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "an older one there"])
@pytest.mark.parametrize("times", [1, 2])
def test_of_two_that_write_at_once_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, times: int
) -> None:
    path = tmp_path / "place"
    if there:
        write(path, "older")
    rename, faster = os.rename, [times]

    def slow(source: Path, target: Path) -> None:
        """Just before the new folder takes its place, another process puts its own there."""
        if target == path and faster[0]:
            faster[0] -= 1
            path.mkdir()
            (path / "file").write_text("theirs")
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    write(path, "ours")
    assert (faster, (path / "file").read_text()) == ([0], "ours")
    assert [each.name for each in tmp_path.iterdir()] == ["place"]


def test_a_failure_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "place"
    write(path, "older")
    rename = os.rename

    def broken(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OutputError, match="Input/output error; nothing was changed"):
        write(path, "ours")
    assert (path / "file").read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["place"]


def test_a_signal_between_the_two_moves_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "place"
    write(path, "older")
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if source == path:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, "ours")
    assert (path / "file").read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["place"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    write(tmp_path / "v3", "older")
    (tmp_path / "current").symlink_to("v3")
    write(tmp_path / "current", "ours")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v3" / "file").read_text() == "ours"
