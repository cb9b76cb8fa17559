"""Freed memory stays with the process, and the peak is measured anew for each trial."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nastricks.memory import keep_freed_memory, peak_memory_mb, reset_peak_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
MEBIBYTE = 2**20


def faults_of_a_step() -> int:
    """Page faults of a step that fills 20 tensors of 16 MiB and keeps none."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(4 * MEBIBYTE) for _ in range(20)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_a_later_step_finds_its_memory() -> None:
    """In the main thread of a fresh process: glibc keeps the memory of other threads in small heaps of their own.

    Without the setting most processes show 81,920 faults a step, but not those where something stays at the heap's top.
    """
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_memory import faults_of_a_step, keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "print([faults_of_a_step() for _ in range(6)][-1])"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(told) < 4_000, "20 tensors hold 81,920 pages"


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_environment_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()


@pytest.mark.skipif(
    torch.cuda.is_available() or not sys.platform.startswith("linux") or not Path("/proc/self/clear_refs").exists(),
    reason="resets the resident peak, which Linux alone can",
)
def test_a_trial_does_not_inherit_the_peak_of_the_one_before() -> None:
    keep_freed_memory()
    reset_peak_memory()
    large = torch.ones(100 * MEBIBYTE)  # 400 MiB
    with_large = peak_memory_mb()
    del large
    for _ in range(2):
        faults_of_a_step()
    reset_peak_memory()
    assert peak_memory_mb() < with_large - 300
