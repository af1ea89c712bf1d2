"""Stops a process at the nth system call that changes its files, counted over all its threads.

`strace --inject=rename:signal=SIGKILL:when=n` counts for each thread and each kind of call by
itself, so that it never comes to the one rename that commits a checkpoint: others of other threads
are the first, the second and so on. This counts them together. Linux on x86-64 alone.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Number -> name of calls that change files, and which arguments are descriptors or paths.
BY_DESCRIPTOR = {
    **{1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 328: "pwritev2"},
    **{74: "fsync", 75: "fdatasync", 77: "ftruncate", 91: "fchmod", 285: "fallocate"},
}
BY_PATH = {
    **{82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink"},
    **{76: "truncate", 88: "symlink", 90: "chmod", 2: "open"},
}
BY_PATH_AT = {  # whose path is relative to a descriptor
    **{257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat"},
    **{268: "fchmodat", 316: "renameat2"},
}
OPENING = {"open": 1, "openat": 2}  # name -> place of the flags among its arguments
CHANGES = os.O_CREAT | os.O_TRUNC  # of an open that changes files
LONGEST = 4096  # bytes of a path

# Of sys/ptrace.h and bits/waitflags.h.
SYSCALL, GETREGS, SETREGS, SEIZE, INTERRUPT, GET_SYSCALL_INFO = 24, 12, 13, 0x4206, 0x4207, 0x420E
SYSGOOD, TRACECLONE, EXITKILL = 0x1, 0x8, 0x100000
AT_SYSCALL = signal.SIGTRAP | 0x80
WALL = 0x40000000
ENTRY, EXIT = 1, 2  # of struct ptrace_syscall_info
REGISTERS, RAX, ORIG_RAX = 27, 10, 15  # of struct user_regs_struct


class Call(NamedTuple):
    """A system call that changes a file."""

    name: str
    path: str


def why_not() -> str:
    """Why no process can be traced here, "" where one can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "only on Linux on x86-64"
    child = os.fork()
    if not child:
        try:
            ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
        except OSError:
            os._exit(1)
        os._exit(0)
    return "ptrace is not permitted" if os.waitpid(child, 0)[1] else ""


def ptrace(request: int, thread: int, address: int, data: int | ctypes.Array) -> int:
    """The call itself; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    at = data if isinstance(data, int) else ctypes.addressof(data)
    found = libc.ptrace(request, thread, address, at)
    if found == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


class Tracer:
    """A child, from now until it ends; the one that made it must be the caller."""

    def __init__(self, child: int, folder: Path):
        """Counts what changes files below `folder`."""
        self._child, self._folder = child, str(folder)
        self.calls: list[Call] = []
        for name in os.listdir(f"/proc/{child}/task"):
            ptrace(SEIZE, int(name), 0, SYSGOOD | TRACECLONE | EXITKILL)
            ptrace(INTERRUPT, int(name), 0, 0)

    def run(self, at: int, fault: int, seconds: float) -> int | None:
        """Until the child ends: its exit status or -SIGNAL, None where that took too long.

        The call number `at`, from 1, fails with error `fault`; if that is 0, the child is killed
        before it. `at` = 0: nothing happens.
        """
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            os.kill(self._child, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            status = self._run(at, fault)
        finally:
            timer.cancel()
            timer.join()
        return None if timed_out.is_set() else status

    def _run(self, at: int, fault: int) -> int:
        failing = 0  # the thread in the call that is to fail
        while True:
            thread, status = os.waitpid(-1, WALL)
            if not os.WIFSTOPPED(status):
                if thread == self._child:
                    return os.waitstatus_to_exitcode(status)
                continue
            number = os.WSTOPSIG(status)
            passed = 0  # signal that the thread is to get
            try:
                if number == AT_SYSCALL:
                    kind, call = self._look(thread)
                    if kind == ENTRY and call:
                        self.calls.append(call)
                        if len(self.calls) == at and not fault:
                            os.kill(self._child, signal.SIGKILL)
                            continue
                        if len(self.calls) == at:
                            failing = thread
                            self._set(thread, ORIG_RAX, -1)  # no such call
                    elif kind == EXIT and thread == failing:
                        self._set(thread, RAX, -fault)
                        failing = 0
                elif not status >> 16:  # else an event of ptrace, such as a new thread
                    passed = number
                ptrace(SYSCALL, thread, 0, passed)
            except OSError as error:
                if error.errno != errno.ESRCH:  # the thread has been killed meanwhile
                    raise

    def _look(self, thread: int) -> tuple[int, Call | None]:
        """ENTRY or EXIT, and the call that is entered if it changes our files."""
        info = ctypes.create_string_buffer(88)
        ptrace(GET_SYSCALL_INFO, thread, len(info), info)
        kind = info.raw[0]
        if kind != ENTRY:
            return kind, None
        number, *words = struct.unpack_from("<7Q", info.raw, 24)
        if number in BY_DESCRIPTOR:
            return kind, self._ours(BY_DESCRIPTOR[number], self._of_descriptor(words[0]))
        table, place = (BY_PATH, 0) if number in BY_PATH else (BY_PATH_AT, 1)
        if number not in table:
            return kind, None
        name = table[number]
        if name in OPENING and not words[OPENING[name]] & CHANGES:
            return kind, None
        path = self._text(words[place])
        if place and not path.startswith("/"):
            path = f"{self._of_descriptor(words[0] & 0xFFFFFFFF)}/{path}"
        return kind, self._ours(name, path)

    def _ours(self, name: str, path: str) -> Call | None:
        if not path.startswith(self._folder):
            return None
        return Call(name, path[len(self._folder) :])

    def _of_descriptor(self, number: int) -> str:
        try:
            return os.readlink(f"/proc/{self._child}/fd/{number}")
        except OSError:
            return ""

    def _text(self, address: int) -> str:
        """The string at an address of the child's memory."""
        with open(f"/proc/{self._child}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return b"".join(_until_zero(memory.read(LONGEST))).decode(errors="replace")

    def _set(self, thread: int, register: int, value: int) -> None:
        registers = (ctypes.c_longlong * REGISTERS)()
        ptrace(GETREGS, thread, 0, registers)
        registers[register] = value
        ptrace(SETREGS, thread, 0, registers)


def _until_zero(content: bytes | None) -> Iterator[bytes]:
    yield (content or b"").split(b"\0", 1)[0]
