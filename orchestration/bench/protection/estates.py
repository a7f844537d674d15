"""Estates of any size, of the kind S2: two clouds, one policy."""

from __future__ import annotations

# Two sites that are a pair, without hosts, policy and machines. Without braces: it may be part of what is formatted.
PAIR = """
[vault]
name = "v"
region = "r"
subscription = "s"
[[site]]
name = "one"
[[site]]
name = "two"
[[server]]
name = "vmm-1"
site = "one"
version = "2012 R2"
provider = "3"
[[server]]
name = "vmm-2"
site = "two"
version = "2012 R2"
provider = "3"
[[cloud]]
name = "c1"
server = "vmm-1"
[[cloud]]
name = "c2"
server = "vmm-2"
[[network]]
name = "n1"
server = "vmm-1"
[[network]]
name = "n2"
server = "vmm-2"
[[classification]]
name = "k1"
server = "vmm-1"
[[classification]]
name = "k2"
server = "vmm-2"
[[protection]]
name = "pair"
scenario = "S2"
source = "c1"
target = "c2"
policy = "p"
"""
_HOSTS = """
[[host]]
name = "h1"
cloud = "c1"
[[host]]
name = "h2"
cloud = "c2"
path = "/replicas"
[[policy]]
name = "p"
copy_frequency = {every}
additional = {additional}
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
    hosts = _HOSTS.format(every=every, additional=additional)
    return PAIR + hosts + "".join(_MACHINE.format(number=one) for one in range(machines))
