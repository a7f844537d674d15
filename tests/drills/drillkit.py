"""A bench whose machine says, from its first sector on, which point it is of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import Bench

# Writes the text behind it to the serial line, and halts:
#   xor ax,ax; mov ds,ax; cld; mov si,text; next: lodsb; test al,al; jz halt; mov dx,3f8h; out dx,al; jmp next
#   halt: hlt; jmp halt
CODE = bytes.fromhex("31c0 8ed8 fc be167c ac 84c0 7406 baf803 ee ebf5 f4 ebfd")
EXTERNAL = 'hypervisor = "external"\ncommands = {{ start = {start}, stop = {stop}, status = {status} }}\n'
MACHINE = 'memory = 32\noptions = ["-accel", "tcg"]\nsignal = {{ serial = "POINT", seconds = 60 }}\n'
NIC = 'nics = [{{ network = "n1", address = "10.1.0.11" }}]\n'
SUBNET = 'subnets = [{{ name = "s", range = "10.1.0.0/24", pool = ["10.1.0.11", "10.1.0.19"] }}]\n'
MAPPED = '[mapping]\nnetwork = [{{ source = "n1", target = "n2" }}]\n'


def boots(text: str) -> bytes:
    """A first sector that a PC starts."""
    return (CODE + text.encode() + b"\r\n\0").ljust(510, b"\0") + b"\x55\xaa"


@dataclass
class Drilled(Bench):
    """A machine of QEMU that prints POINT and the number of its point; its policy asks for a drill each week. The
    bridges of the target's host are in `namespace`.
    """

    namespace: str = ""

    def __post_init__(self) -> None:
        self.text = self._with_qemu
        super().__post_init__()

    def _with_qemu(self, text: str) -> str:
        for old, new in (
            (EXTERNAL, ""), ('host = "h1"\ndisks', f'host = "h1"\n{NIC}{MACHINE}disks'),
            ("additional = 15\n", "additional = 15\ndrill_days = 7\n"),
            ('name = "h2"\n', f'name = "h2"\nnamespace = "{self.namespace}"\n'),
            *((f'name = "n{number}"\n', f'name = "n{number}"\n{SUBNET}') for number in (1, 2)),
        ):  # fmt: skip
            text = text.replace(old, new)
        return text + MAPPED

    def point(self) -> int:
        """Another one."""
        number = len(self.points) + 1
        with (self.folder / "system.raw").open("r+b") as file:
            file.write(boots(f"POINT {number}"))
        return self.cycle(write=False).number

    def left(self) -> list[Path]:
        """What there is of machines that were tested."""
        return [path for path in self.folder.glob("run2/**/*") if path.is_file() and path.suffix != ".lock"]
