"""Worker processes that begin with everything imported: forks of one process that has imported it once.

A worker of Ray's is a new Python, and torch and transformers take it four seconds of a processor. Here one process imports them while the
driver still plans, and a worker is a fork of it. Run as a script, this file is what Ray starts instead of Python: it has the fork run what
Python would have run, and stands for it until that ends. Only the standard library is imported here, for it does so in each worker's start.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MOST_WAITING = 128  # workers that start at once
_PATIENCE_SECONDS = 20.0  # after which Python does without a fork; Ray itself waits for a minute
_OOM_SCORE = Path("/proc/self/oom_score_adj")  # Ray has the kernel end workers before itself


@contextmanager
def preloaded(modules: Sequence[str]) -> Iterator[str | None]:
    """For the length of the block, a process that imports `modules` and forks; at once, while it still imports.

    Yields the shell's words that stand for `python` before a script and its arguments; None where there is no such process. What it has
    forked goes on after the block. None of the modules may use a GPU or start threads, but for those whose library bears a fork.
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
            [sys.executable, __file__, str(number), json.dumps({"modules": modules, "path": sys.path})],
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
    """Have the process at `path` fork and run the script and arguments in `words`, until that ends, with whichever status; or else run
    them ourselves."""
    request = {
        "words": words,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score": _OOM_SCORE.read_text(),
    }
    said = json.dumps(request).encode()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(path)
        socket.send_fds(connection, [len(said).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(said)
        if connection.recv(1):  # it has begun
            connection.settimeout(None)
            connection.recv(1)  # nothing comes: it has ended
            return
    os.execv(sys.executable, [sys.executable, *words])


def _serve(listener: socket.socket, modules: Sequence[str], path: Sequence[str]) -> None:
    """Import `modules` from `path`, then fork for each connection, until standard input ends. Returns nowhere but in a fork, which has run
    what it was asked to."""
    own = sys.path[:]
    sys.path[:] = path
    gc.disable()
    for name in modules:
        import_module(name)
    gc.freeze()  # a fork's collector does not write into what all share
    gc.enable()
    sys.path[:] = own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork waits to be asked how it ended
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:  # the driver was killed
            shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)
            sys.exit()
        connection, _ = listener.accept()
        with warnings.catch_warnings(action="ignore"):  # that a thread is there, jemalloc's, which bears it
            forked = os.fork() == 0
        if forked:
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
    resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["words"]
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(sys.argv[0]).parent)
    for name in ("torch", "numpy.random"):  # not the numbers of every other fork; Python's own see to it
        if name in sys.modules:
            sys.modules[name].seed()
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)  # once nothing stands for us any more, a signal ends us
    connection.send(b".")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    if first.isdecimal():
        _serve(socket.socket(fileno=int(first)), **json.loads(others[0]))
    else:
        _ask(first, others)
