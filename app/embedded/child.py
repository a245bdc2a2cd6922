"""The step between our process and PostgreSQL's: run as a script.

    python -I -S child.py PARENT UID GID SIGNAL PROGRAM [ARGUMENT...]
    python -I -S child.py PARENT UID GID 0 --unreachable PATH...

It becomes the server's user, asks the kernel to send SIGNAL when its parent dies, and turns into
PROGRAM. `Popen(preexec_fn=...)` could do the same, but runs Python between fork and exec, which can
deadlock in a program with threads; a process of its own costs 15 ms and cannot.

With `--unreachable` it prints, NUL-terminated, the first component of each PATH that this user
cannot pass through or read (an empty string where there is none): the kernel's own answer, which
knows of access control lists and containers.
"""

import ctypes
import os
import signal
import sys

CANNOT_BECOME_USER = 77
CANNOT_EXECUTE = 126
PARENT_IS_GONE = 79

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    parent, uid, gid, death_signal = map(int, arguments[:4])
    program = arguments[4:]
    # Loaded now: the server's user may not be able to read the C library's folder of this Python.
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    # A parent started by `nohup` or in the background of a script hands on ignored signals.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    os.chdir("/")

    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        except OSError as error:
            sys.stderr.write(f"{error.strerror}\n")
            return CANNOT_BECOME_USER
    if program[0] == "--unreachable":
        blocked = [os.fsencode(first_unreachable(path)) + b"\0" for path in program[1:]]
        sys.stdout.buffer.write(b"".join(blocked))
        return 0
    if libc is not None and death_signal:
        # After setuid, which clears it. The kernel refuses only unknown signals.
        libc.prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # it died before the kernel was asked
        return PARENT_IS_GONE
    try:
        os.execv(program[0], program)  # noqa: S606 (its whole purpose)
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
        return CANNOT_EXECUTE


def first_unreachable(path: str) -> str:
    parts = path.strip("/").split("/")
    for end in range(len(parts) + 1):
        part = "/" + "/".join(parts[:end])
        needed = os.X_OK if os.path.isdir(part) else os.R_OK  # noqa: PTH112 (starts faster without pathlib)
        if not os.access(part, needed):
            return part
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
