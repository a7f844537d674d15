"""What the engine's calls return: plain values, ready for JSON through `dataclasses.asdict`.

In files by who returns them: to make all of these classes takes 35 ms, more than a tenth of what starting a command
takes, which needs one or two of them.
"""
