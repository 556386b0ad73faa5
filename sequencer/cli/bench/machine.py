"""The machine: what it can do by itself (so that figures of two machines can be compared as ratios), and what processes
use of it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

HASH_BYTES: Final = 1024 * 1024
HASH_S: Final = 0.3
FSYNC_ROUNDS: Final = 60
FSYNC_BYTES: Final = 4096
SHARED_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One core's SHA-256 in MB/s (10**6 bytes), and the median of appending 4 KiB to a file and syncing it, in us."""

    sha256_mb_per_s: float
    fsync_us: float
    cores: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What processes have used so far: CPU seconds and resident bytes, each summed over them; and how many they are."""

    cpu_s: float
    memory_bytes: int
    processes: int


def calibrate(directory: Path) -> Calibration:
    """Measure the machine, and the disk of ``directory``. Takes half a second."""
    data, hashed, begin = os.urandom(HASH_BYTES), 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < HASH_S:
        sha256(data).digest()
        hashed += HASH_BYTES
    times = []
    file = directory / "fsync"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(FSYNC_ROUNDS):
            begin = time.perf_counter()
            os.write(descriptor, data[:FSYNC_BYTES])
            os.fsync(descriptor)
            times.append(time.perf_counter() - begin)
    finally:
        os.close(descriptor)
        file.unlink()
    return Calibration(
        sha256_mb_per_s=hashed / seconds / 1e6, fsync_us=statistics.median(times) * 1e6, cores=os.cpu_count() or 1
    )


def memory_directory() -> Path | str:
    """A directory in memory, or why there is none."""
    if not SHARED_MEMORY.is_dir():
        return f"this system has no {SHARED_MEMORY}"
    if not os.access(SHARED_MEMORY, os.W_OK):
        return f"{SHARED_MEMORY} cannot be written"
    return SHARED_MEMORY


def usage_of(process_ids: Sequence[int]) -> Usage:
    """What these processes have used. Those that have ended count nothing."""
    if sys.platform == "linux":
        found = [each for process_id in process_ids if (each := _from_proc(process_id)) is not None]
    else:
        found = _from_ps(process_ids)
    return Usage(
        cpu_s=sum(cpu_s for cpu_s, _ in found), memory_bytes=sum(size for _, size in found), processes=len(found)
    )


def busy_cpu_s() -> float | None:
    """CPU seconds that this machine has worked so far, all cores and programs together; None where that is not told."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    # proc(5): user nice system idle iowait irq softirq ...
    user, nice, system, _idle, _iowait, irq, softirq = map(int, first.split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def with_children(process_ids: Sequence[int]) -> list[int]:
    """These processes and those that they started: a node's adapters."""
    listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return [*process_ids, *(process_id for process_id, parent in pairs if parent in process_ids)]


def _from_proc(process_id: int) -> tuple[float, int] | None:
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # proc(5): utime and stime are fields 14 and 15, rss is 24; the first here is field 3.
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _from_ps(process_ids: Sequence[int]) -> list[tuple[float, int]]:
    command = ["ps", "-o", "time=,rss=", "-p", ",".join(map(str, process_ids))]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    found = []
    for line in listed.stdout.splitlines():
        clock, size_kib = line.split()
        seconds = 0.0
        for part in clock.replace("-", ":").split(":"):
            seconds = seconds * 60 + float(part)
        found.append((seconds, int(size_kib) * 1024))
    return found


def bytes_below(directory: Path) -> int:
    """The sum of the files' sizes; those that go meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name), follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
    return total
