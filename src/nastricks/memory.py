"""The memory of the process: kept between steps, and its peak measured."""

import ctypes
import os
import platform
import resource
import sys
from functools import cache
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # what glibc accepts on 64 bits
_LARGEST_TRIM_THRESHOLD = 2**31 - 1


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep what a training step frees for the next one: a fifth less time for large steps on a CPU.

    By default it returns freed memory to the kernel as soon as the top of the heap is free, which it is after a step
    that keeps nothing; the next step then pays for every page again. Where MALLOC_TRIM_THRESHOLD_,
    MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES is set, the user's choice stands. Acts on the whole process, once.

    Returns:
        Whether the setting took effect (False where the C library is not glibc, or the environment says otherwise).
    """
    library = _glibc()
    if library is None or any(
        name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    ):
        return False
    # Setting one threshold stops glibc from adapting the other, so both are set.
    accepted = library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(library.mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM_THRESHOLD) and accepted)


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can still be allocated on a device; on the CPU what the kernel calls available, or what a container's
    limit leaves (control groups, version 2). Where the system does not say, the memory of the machine."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _left_in_container())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_container() -> int:
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not (limit.is_file() and used.is_file()) or not (told := limit.read_text().strip()).isdigit():
        return sys.maxsize
    return max(0, int(told) - int(used.read_text()))


def reset_peak_memory() -> None:
    """Start measuring anew: the GPU's peak where there is one, else the process's (Linux; elsewhere it only grows)."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)  # what the last trial freed is not the next one's
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:
            return  # not permitted in some containers: the peak is then that of the process's whole life


def peak_memory_mb() -> float:
    """Peak since the last reset in MiB: allocated on the GPU where there is one, else the process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
