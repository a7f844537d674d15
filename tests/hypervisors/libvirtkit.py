"""A libvirt daemon of a test's own: its folders are mounted over those of the host, for it alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# QEMU runs as root, and without what takes a whole system: a daemon for logs, control groups, a user of its own.
_BEGIN = """
set -e
mount --make-rprivate /
for folder in /var/lib/libvirt /var/cache/libvirt /etc/libvirt /run/libvirt /var/log/libvirt; do
    mkdir -p $folder
    mount -t tmpfs none $folder
done
cat >/etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
END
for file in passwd group; do
    cp /etc/$file /run/libvirt/$file
    echo "libvirt-qemu:x:64055:64055::/:/bin/false" >>/run/libvirt/$file
    mount --bind /run/libvirt/$file /etc/$file
done
exec libvirtd -f "$1/libvirtd.conf" -p "$1/libvirtd.pid"
"""


@contextmanager
def daemon(folder: Path) -> Iterator[str]:
    """Its URI. What it ran ends with it."""
    conf = folder / "libvirtd.conf"
    conf.write_text(f'unix_sock_dir = "{folder}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n')
    socket = folder / "libvirt-sock"
    with (folder / "libvirtd.log").open("wb") as log:
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", _BEGIN, "sh", folder], stdout=log, stderr=log)
    uri = f"qemu+unix:///system?socket={socket}"
    try:
        until = time.monotonic() + 30
        while subprocess.run(["virsh", "-c", uri, "list"], capture_output=True).returncode:
            said = (folder / "libvirtd.log").read_text()
            assert process.poll() is None and time.monotonic() < until, said
            time.sleep(0.1)
        yield uri
        names = subprocess.run(["virsh", "-c", uri, "list", "--name"], capture_output=True, text=True).stdout
        for name in filter(None, names.split("\n")):
            subprocess.run(["virsh", "-c", uri, "destroy", name], capture_output=True)
    finally:
        process.terminate()
        process.wait(30)


def virsh(*words: str) -> str:
    """What the user does himself. LIBVIRT_DEFAULT_URI says where."""
    done = subprocess.run(["virsh", "--quiet", *words], capture_output=True, text=True, check=True, env=os.environ)
    return done.stdout.strip()
