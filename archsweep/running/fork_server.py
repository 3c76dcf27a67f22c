"""Worker processes that begin with everything imported: forks of one process that has imported it once.

A worker of Ray's is a new Python, and torch and transformers take it four seconds of a processor. Here one process imports them while the
driver still plans, and a worker is a fork of it. Run as a script, this file is what Ray starts instead of Python: it has the fork run what
Python would have run, and stands for it until that ends. Only the standard library is imported here, for it does so in each worker's start.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MOST_WAITING = 128  # workers that start at once
_OOM_SCORE = Path("/proc/self/oom_score_adj")  # Ray has the kernel end workers before itself


@contextmanager
def preloaded(modules: Sequence[str]) -> Iterator[str | None]:
    """For the length of the block, a process that imports `modules` and forks; at once, while it still imports.

    Yields the shell's words that stand for `python` before a script and its arguments; None where there is no such process. What it has
    forked goes on after the block. None of the modules may start threads or use a GPU: a fork has neither.
    """
    if sys.platform != "linux":  # macOS' own libraries do not bear it
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="archsweep-fork-"))  # this user's alone
    try:
        with _started(folder / "socket", modules) as there:
            yield shlex.join([sys.executable, "-I", "-S", __file__, str(folder / "socket")]) if there else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(path: Path, modules: Sequence[str]) -> Iterator[bool]:
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(path))
        except OSError:  # a temporary folder whose path is too long for a socket's
            yield False
            return
        listener.listen(_MOST_WAITING)
        number = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, __file__, str(number), *modules],
            stdin=subprocess.PIPE,  # which ends with us, however we end
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C is for us
            env={"OMP_NUM_THREADS": "1"} | os.environ,  # as Ray has it in a worker; and threads would not be in a fork
        )
    with process:
        try:
            yield True
        finally:
            process.kill()


def _ask(path: str, words: Sequence[str]) -> None:
    """Have the process at `path` fork and run the script and arguments in `words`, until that ends; or else run them ourselves."""
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "oom_score": _OOM_SCORE.read_text()}
    said = json.dumps(request).encode()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [len(said).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(said)
        if connection.recv(1):  # it has begun
            connection.recv(1)  # nothing comes: it has ended
            return
    os.execv(sys.executable, [sys.executable, *words])


def _serve(listener: socket.socket, modules: Sequence[str]) -> None:
    """Import `modules`, then fork for each connection, until standard input ends. Returns nowhere but in a fork, which runs what it was
    asked to."""
    gc.disable()
    for name in modules:
        import_module(name)
    gc.freeze()  # a fork's collector does not write into what all share
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork waits to be asked how it ended
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run(connection)
            return
        connection.close()


def _run(connection: socket.socket) -> None:
    """Run what the connection asks for, as a Python of its own would."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(head, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setpgid(0, 0)  # Ray ends a worker's whole group
    _OOM_SCORE.write_text(request["oom_score"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["words"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    if "torch" in sys.modules:
        sys.modules["torch"].seed()  # not the numbers of every other fork
    connection.send(b".")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    if first.isdecimal():
        sys.path[0] = str(Path(__file__).parents[2])  # this file's own folder has modules of everyday names
        _serve(socket.socket(fileno=int(first)), others)
    else:
        _ask(first, others)
