"""Where the program begins: until its modules are there, an interrupt ends it at once, as it ends a program in C.

Python's own handler would raise in the midst of an import, and show all of what was being imported. What Python does
before it comes here, some 20 ms, is its own.
"""

# Not `signal`: that takes a millisecond to import, in which an interrupt would raise.
import _signal as signal  # type: ignore[import-not-found]

# A shell's background job ignores interrupts, and so do we then.
_HEARD = signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _at_once() -> None:
    if _HEARD:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


_at_once()


def main() -> None:
    """The entry point. While a command runs an interrupt is an exception, as elsewhere in Python."""
    from secondsite.orchestration import cli

    try:
        if _HEARD:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    finally:
        _at_once()  # nothing is left to take back, only Python's own end
