"""Map the top-level folders to import packages and build the extension modules.

The native kernels link the system's libxxhash, libzstd and liblz4, found by pkg-config. Where a header is
missing the package still installs, without the modules that need it, and `secondsite.engine.kernel` runs the
portable kernels and says so.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = {"secondsite.engine": "engine", "secondsite.orchestration": "orchestration"}
CFLAGS = ["-O3", "-g0", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fno-strict-aliasing"]
LIBRARIES = ("libxxhash", "libzstd", "liblz4")


def packages():
    for name, folder in FOLDERS.items():
        yield name
        for sub in find_packages(folder):
            yield f"{name}.{sub}"


def pkg_config(option):
    """The flags of all three libraries, or None where one of them has no headers."""
    try:
        run = subprocess.run(["pkg-config", option, *LIBRARIES], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.split()


def extension(name, *sources, include=(), link=(), flags=()):
    return Extension(
        f"secondsite.engine.{name}",
        sources=list(sources),
        include_dirs=["ext/c", *include],
        extra_compile_args=[*CFLAGS, *flags],
        extra_link_args=list(link),
        depends=sorted(str(path) for path in Path("ext").glob("**/*.[ch]")),
    )


def extensions():
    link = None if os.environ.get("SECONDSITE_PORTABLE") else pkg_config("--libs")
    if link is None:
        print("secondsite: no headers of libxxhash, libzstd and liblz4; building without native kernels")
        return []
    include = [flag[2:] for flag in pkg_config("--cflags") if flag.startswith("-I")]
    hashes = ["ext/c/hash.c"]
    if platform.machine() in ("x86_64", "AMD64"):
        hashes.append("ext/c/hash_avx2.c")  # chosen at run time, where the processor has it
    modules = [
        extension("_files", "ext/_files.pyx"),
        extension("_bitmap", "ext/_bitmap.pyx"),
        extension("_entries", "ext/_entries.pyx"),
        extension("_extents", "ext/_extents.pyx"),
        extension("_crc", "ext/_crc.pyx", "ext/c/crc32c.c"),
        extension("_tables", "ext/_tables.pyx"),
        extension("_vhdx", "ext/_vhdx.pyx"),
        extension("_nbd", "ext/_nbd.pyx", "ext/c/changes.c", "ext/c/disk.c", "ext/c/transmit.c", link=["-pthread"]),
        extension("_scan", "ext/_scan.pyx", *hashes, include=include, link=link),
        extension("_codec", "ext/_codec.pyx", *hashes, include=include, link=link),
    ]
    if sys.argv[1:2] in (["sdist"], ["egg_info"]):
        return modules  # their sources are asked for alone; to translate them takes 13 s of a core
    from Cython.Build import cythonize

    return cythonize(
        modules,
        include_path=["ext"],
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )


setup(package_dir=FOLDERS, packages=list(packages()), ext_modules=extensions())
