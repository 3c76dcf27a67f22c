"""Memory that is needed again is not returned to the system in between."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROUNDS = """
import resource, torch
from archsweep.training.allocator import keep_freed_memory
{before}
for _ in range(16):
    torch.ones(2**24)  # small blocks take a place between the first few
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_was_freed_is_used_again_without_asking_the_system() -> None:
    usual, kept = (
        int(subprocess.run([sys.executable, "-c", ROUNDS.format(before=line)], check=True, capture_output=True, text=True).stdout)
        for line in ("", "keep_freed_memory()")
    )
    assert usual > 30, "64 MiB are mapped anew each time, be it in pages of 2 MiB"
    assert kept < usual / 100
