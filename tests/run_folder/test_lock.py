"""The lock between real processes, and after the violent death of its holder."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from nesa.errors import RunFolderError
from nesa.run_folder.lock import RunLock, holder

HOLD = """
import sys, time
from nesa.run_folder.lock import RunLock
lock = RunLock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(60)
"""

FORK = """
import os, sys, time
from nesa.run_folder.lock import RunLock
lock = RunLock(sys.argv[1]).acquire()
if os.fork() == 0:
    print("child", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""

CONTEND = """
import sys
from nesa.errors import RunFolderError
from nesa.run_folder.lock import RunLock
print("ready", flush=True)
sys.stdin.readline()
try:
    RunLock(sys.argv[1]).acquire()
    print("won", flush=True)
except RunFolderError:
    print("lost", flush=True)
sys.stdin.read()
"""


def start(script, folder):
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "the other process did not come up"
    return process, process.stdout.readline().split()


def end(process):
    process.kill()
    process.wait(timeout=30)
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_the_run(tmp_path):
    process, _ = start(HOLD, tmp_path)
    try:
        with pytest.raises(RunFolderError) as refused:
            RunLock(tmp_path).acquire()
        assert f"process {process.pid} on {socket.gethostname()} since 20" in str(refused.value)
        assert str(tmp_path) in str(refused.value)
    finally:
        end(process)


def test_a_refused_process_does_not_disturb_the_holder(tmp_path):
    with RunLock(tmp_path):
        for _ in range(2):  # the first refusal must not have freed it or wiped the name
            with pytest.raises(RunFolderError, match=f"process {os.getpid()} "):
                RunLock(tmp_path).acquire()


def test_the_lock_is_free_after_its_holder_was_killed(tmp_path):
    process, _ = start(HOLD, tmp_path)
    end(process)
    assert holder(tmp_path)["pid"] == process.pid, "the file should still name the dead holder"
    with RunLock(tmp_path) as lock:
        assert lock.held
        assert holder(tmp_path)["pid"] == os.getpid()


def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    process, (_, child) = start(FORK, tmp_path)
    try:
        with pytest.raises(RunFolderError, match=f"process {process.pid} "):  # the child's close freed nothing
            RunLock(tmp_path).acquire()
        process.kill()
        process.wait(timeout=30)
        os.kill(int(child), 0)  # the child is alive
        with RunLock(tmp_path) as lock:
            assert lock.held
    finally:
        os.kill(int(child), signal.SIGKILL)
        end(process)


def test_release_lets_the_next_one_in_and_clears_the_name(tmp_path):
    lock = RunLock(tmp_path).acquire()
    lock.release()
    lock.release()
    assert holder(tmp_path) is None
    with RunLock(tmp_path):
        assert holder(tmp_path)["host"] == socket.gethostname()
    assert not lock.held


def test_an_error_inside_releases_it(tmp_path):
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    RunLock(tmp_path).acquire().release()


def test_taking_it_twice_is_a_mistake_of_the_program(tmp_path):
    with RunLock(tmp_path) as lock, pytest.raises(RuntimeError, match="already held"):
        lock.acquire()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="gone: cannot be written"):
        RunLock(tmp_path / "gone").acquire()


def test_only_one_of_many_wins(tmp_path):
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [process.stdout.readline() for process in contenders] == ["ready\n"] * 4
    for process in contenders:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.stdout.readline() for process in contenders)  # the winner holds on until all have tried
    for process in contenders:
        process.communicate(timeout=60)
    assert answers == ["lost\n", "lost\n", "lost\n", "won\n"]
