"""Holds one Elasticsearch node for its parent: whatever becomes of the parent, the node does not outlive it.

Run as a program of its own, by path and with nothing but the standard library. The parent writes "start" and
"stop" on its standard input; the end of the input, which comes even when the parent is killed, means "stop".
On its standard output it says "exited <status>" whenever the node is gone without having been told to go.
"""

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

GRACE = 15.0  # seconds a node has to close its files before it is killed
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Obey the parent until it wants the node stopped, or is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", type=int, help="run the node as this uid and gid")
    parser.add_argument("--remove", help="a folder to remove at the end")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    signals = _signals()
    node = None
    while True:
        readable, _, _ = select.select([0, signals], [], [])
        if signals in readable and set(os.read(signals, 512)) & set(_STOP_SIGNALS):
            break
        if node and node.poll() is not None:
            _signal_group(node, signal.SIGKILL)  # the launcher went first: its server must not stay
            _say(f"exited {node.returncode}")
            node = None
        if 0 in readable:
            order = os.read(0, 512)
            if not order or b"stop" in order:
                break
            if b"start" in order and node is None:
                node = _start(options.command, options.user)
    if node:
        _stop(node)
    if options.remove:
        shutil.rmtree(options.remove, ignore_errors=True)


def _signals() -> int:
    """A file descriptor from which the numbers of arriving signals can be read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def _start(command: list[str], user: int | None) -> subprocess.Popen[bytes] | None:
    try:
        # A session of its own is a process group of its own: launcher and server can be signalled together.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # both to our standard error, which is the log file
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"cannot start {command[0]} (uid {user}): {error}", file=sys.stderr, flush=True)
        _say("exited 127")
        return None


def _stop(node: subprocess.Popen[bytes]) -> None:
    _signal_group(node, signal.SIGTERM)
    _signal_group(node, signal.SIGCONT)  # a paused server could not obey otherwise
    if not _gone(node, GRACE):
        _signal_group(node, signal.SIGKILL)
        _gone(node, 5.0)


def _gone(node: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the launcher and its server to be gone."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if node.poll() is not None and not _signal_group(node, 0):
            return True
        time.sleep(0.05)
    return False


def _signal_group(node: subprocess.Popen[bytes], number: int) -> bool:
    try:
        os.killpg(node.pid, number)
    except ProcessLookupError:
        return False
    return True


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
