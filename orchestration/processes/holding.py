"""Runs a command and keeps a descriptor open until it has ended: python -I -S holding.py DESCRIPTOR SECONDS COMMAND...

The command does not get the descriptor, nor does what it leaves behind. It holds a lock that way which whoever began it
had, also where that one was killed: nobody takes the lock while the command goes on by itself, which is ended after so
many seconds in any case. It needs a process group of its own, and imports nothing, since it runs without our packages.
"""

import os
import signal
import sys

# As of a shell.
_NOT_THERE = 127


def main(descriptor: str, seconds: str, *command: str) -> int:
    """The exit status of the command; it ends by the signal that ended that."""
    os.set_inheritable(int(descriptor), False)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    try:
        child = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        print(f"cannot run it: {error.strerror}", file=sys.stderr)
        return _NOT_THERE
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
