"""Another clock for a process: what it is told of the time of day is so many seconds off; what it waits for is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long off(void) { const char *told = getenv("CLOCK_OFF"); return told ? atol(told) : 0; }

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int found = real(which, now);
    if (!found && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += off();
    return found;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
"""


def library(folder: Path) -> Path:
    """To be loaded before the C library, so that OpenSSL is told that time too."""
    source, made = folder / "skew.c", folder / "skew.so"
    source.write_text(_SOURCE)
    subprocess.run(("gcc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"), check=True, timeout=60)
    return made


def within(made: Path, seconds: int) -> tuple[str, ...]:
    """The words before a command whose clock is so many seconds ahead."""
    return ("env", f"LD_PRELOAD={made}", f"CLOCK_OFF={seconds}")
