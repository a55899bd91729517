"""nesa.files: a file is whole or as it was before, and every name is one file name."""

from __future__ import annotations

import resource

import pytest

from nesa import files
from nesa.errors import RunFailed
from nesa.files import file_name, write_atomically


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 4 KiB: the nearest thing to a full disk that needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_different_names_have_different_folders():
    names = ["a/b", "a%2Fb", "a b", "a_b", ".a", "%2Ea"]
    assert len({file_name(name) for name in names}) == len(names)


def test_plain_names_are_left_alone():
    for name in ("cifar10-v1.0_x", "vision+cifar10=scenes"):
        assert file_name(name) == name


def test_write_atomically_replaces(tmp_path):
    path = tmp_path / "table.csv"
    write_atomically(path, b"old")
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["table.csv"]


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new and longer")
        assert reader.read() == b"old"


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"half of the new")
        file.flush()
        raise KeyError("power cut")

    with pytest.raises(KeyError):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["table.csv"]


def test_a_failure_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")

    def broken(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(RunFailed, match=r"table\.csv: cannot be written \(Input/output error\)"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["table.csv"]


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")
    with pytest.raises(RunFailed, match=r"table\.csv: cannot be written"):
        write_atomically(path, b"x" * 10_000)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["table.csv"]
