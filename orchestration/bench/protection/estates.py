"""Estates of any size, of the kind S2: two clouds, one policy."""

from __future__ import annotations

_HEAD = """
[vault]
name = "v"
region = "r"
subscription = "s"
site = [{name = "one"}, {name = "two"}]
cloud = [{name = "c1", server = "vmm-1"}, {name = "c2", server = "vmm-2"}]
host = [{name = "h1", cloud = "c1"}, {name = "h2", cloud = "c2", path = "/replicas"}]
network = [{name = "n1", server = "vmm-1"}, {name = "n2", server = "vmm-2"}]
classification = [{name = "k1", server = "vmm-1"}, {name = "k2", server = "vmm-2"}]
protection = [{name = "pair", scenario = "S2", source = "c1", target = "c2", policy = "p"}]
"""
_SERVER = """
[[server]]
name = "vmm-{number}"
site = "{site}"
version = "2012 R2"
provider = "3"
"""
_MACHINE = """
[[machine]]
name = "m{number}"
host = "h1"
disks = [{{ path = "/vm/m{number}/system.vhdx", os = true }}, {{ path = "/vm/m{number}/data.vhdx" }}]
[[item]]
machine = "m{number}"
protection = "pair"
"""


def estate(machines: int, every: int = 30, additional: int = 15) -> str:
    """As many protected machines, of two disks each."""
    top, _, rows = _HEAD.partition("site = ")
    tables = f"site = {rows}".strip()
    policy = f'policy = [{{name = "p", copy_frequency = {every}, additional = {additional}}}]'
    servers = "".join(_SERVER.format(number=number, site=site) for number, site in ((1, "one"), (2, "two")))
    return f"{tables}\n{policy}\n{top}{servers}" + "".join(_MACHINE.format(number=one) for one in range(machines))
