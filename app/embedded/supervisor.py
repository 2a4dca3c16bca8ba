"""Runs one Elasticsearch node for its parent. The node never outlives the parent, even if that is killed.

It is a program of its own that is run by path and uses the standard library only. The parent writes "start" and
"stop" on its standard input; the end of the input, which comes even when the parent is killed, means "stop".
On its standard output it reports "exited <status>" when the node has ended without being stopped.
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
    """Follows the parent's commands until it stops the node or ends."""
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
    """Returns a file descriptor from which the numbers of arriving signals can be read."""
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
    """Waits until the launcher and its server have ended."""
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
