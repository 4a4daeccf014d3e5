"""What the shared tables cost from a thousand to a million records: `python bench/tables.py`.

Three questions in one run of about a minute and a half, all in CPU time: what a look-up, an insert and a
removal cost at each size (and a look-up in another process while the writer churns); how long control's
loop stands still when a transceiver that owns N routes dies, removing little by little and all in one
loop; what a start of control costs on full tables. Kept in bench/results/tables.json.
"""

import argparse
import gc
import json
import mmap
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.control_at_scale import OWNER, Figures, measure_deaths, measure_starts
from voicerelay.shm.table import KEY_BYTES, RECORD_BYTES, Entry, TableReader, TableWriter

RESULTS = ROOT / "bench" / "results" / "tables.json"
KEY_COUNTS = [1 << 10, 1 << 13, 1 << 17, 1 << 20]  # each table exactly half full
SLICE = 64  # keys removed and put again in one go: a small table must stay half full
SLICES = 40  # a round
READS = 2000  # a batch of the reader


# ---- one operation ---------------------------------------------------------------------------------


class Bed:
    """A half full table in memory that a child shares, its keys, and as many it does not hold."""

    def __init__(self, count: int) -> None:
        self.records = memoryview(mmap.mmap(-1, 2 * count * RECORD_BYTES))
        self.epoch = memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:4]
        self.writer = TableWriter(self.records, self.epoch, count)
        dice = random.Random(count)
        self.keys = [dice.randbytes(KEY_BYTES) for _ in range(count)]
        self.absent = [dice.randbytes(KEY_BYTES) for _ in range(READS)]
        self.dice = dice
        for number, key in enumerate(self.keys):
            self.writer.put(key, Entry(*OWNER, number, 0))


def cpu_us_each(run: Callable[[bytes], object], keys: Sequence[bytes]) -> float:
    """CPU µs of a call, over these keys."""
    begin = time.process_time()
    for key in keys:
        run(key)
    return (time.process_time() - begin) / len(keys) * 1e6


def operations(bed: Bed) -> Figures:
    """One round: µs of each operation."""
    find = TableReader(bed.records, bed.epoch).find
    found = bed.dice.sample(bed.keys, min(READS, len(bed.keys)))
    hit, miss = cpu_us_each(find, found), cpu_us_each(find, bed.absent)
    entry = Entry(*OWNER, 1, 0)
    removals, inserts = [], []
    for _ in range(SLICES):
        keys = bed.dice.sample(bed.keys, SLICE)
        removals.append(cpu_us_each(bed.writer.remove, keys))
        inserts.append(cpu_us_each(lambda key: bed.writer.put(key, entry), keys))
    return {
        "hit_us": hit,
        "miss_us": miss,
        "insert_us": sum(inserts) / SLICES,
        "remove_us": sum(removals) / SLICES,
    }


def read_beside(bed: Bed, churn: bool, seconds: float) -> Figures:
    """µs of a look-up in a child while this process writes, or does not; stable keys it missed."""
    stable = bed.keys[:READS] if len(bed.keys) > 2 * READS else bed.keys[: len(bed.keys) // 2]
    moving = bed.keys[len(stable) :]
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        find = TableReader(bed.records, bed.epoch).find
        cpu_us_each(find, stable + bed.absent)  # its own copies of pages: not what is measured
        hits, misses, missed = [], [], 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            hits.append(cpu_us_each(find, stable))
            misses.append(cpu_us_each(find, bed.absent))
            missed += sum(find(key) is None for key in stable)
        os.write(sending, json.dumps([median(hits), median(misses), missed]).encode())
        os._exit(0)
    os.close(sending)
    entry, writes = Entry(*OWNER, 1, 0), 0
    while churn and os.waitpid(pid, os.WNOHANG)[0] == 0:
        for key in bed.dice.sample(moving, SLICE):
            bed.writer.remove(key)
            bed.writer.put(key, entry)
            writes += 2
    if not churn:
        os.waitpid(pid, 0)
    with os.fdopen(receiving) as answer:
        hit, miss, lost = json.load(answer)
    name = "churn" if churn else "quiet"
    figures = {f"reader_hit_{name}_us": hit, f"reader_miss_{name}_us": miss}
    return figures | ({"reader_lost": lost, "writes_per_s": writes / seconds} if churn else {})


def measure_operations(rounds: int) -> dict[str, Figures]:
    """Medians over the rounds; every size has its turn in each."""
    beds = {count: Bed(count) for count in KEY_COUNTS}
    runs: dict[int, list[Figures]] = {count: [] for count in KEY_COUNTS}
    gc.freeze()  # the keys listed here are the benchmark's own
    for _ in range(rounds):
        for count, bed in beds.items():
            runs[count].append(operations(bed))
    # Afterwards: a fork makes every page of this process dear to write once more.
    for number in range(rounds):
        for count, bed in beds.items():
            for churn in (False, True):
                runs[count][number] |= read_beside(bed, churn, 0.25)
    lost = sum(run["reader_lost"] for each in runs.values() for run in each)
    if lost:
        raise SystemExit(f"a reader missed {lost:.0f} keys that were there")
    return {
        str(count): {name: median(run[name] for run in each) for name in each[0]}
        for count, each in runs.items()
    }


# ---- the answer ------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def answer(kept: dict[str, Any]) -> str:
    names = list(next(iter(kept["operations"].values())))
    shown = [name for name in names if name.endswith("_us")]
    operations_rows = [
        [f"{int(count):,}", *(f"{figures[name]:.2f}" for name in shown)]
        for count, figures in kept["operations"].items()
    ]
    first, last = kept["operations"][str(KEY_COUNTS[0])], kept["operations"][str(KEY_COUNTS[-1])]
    operations_rows.append(["last / first", *(f"{last[n] / first[n]:.2f}" for n in shown)])
    death_rows = [
        [
            f"{one['routes']:,}",
            f"{one['one_loop_longest_turn_ms']:.1f} ms",
            f"{one['little_longest_turn_ms']:.1f} ms",
            f"{one['little_removed_per_s'] / 1000:.0f}k/s",
            f"{one['little_busy'] * 100:.0f} %",
            f"{one['little_routes_counted_after']:.0f}",
        ]
        for one in kept["deaths"]
    ]
    start_rows = [
        [
            f"{one['capacity']:,}",
            f"{one['records']:,.0f}",
            f"{one['cpu_s']:.2f} s",
            f"{one['longest_silence_s']:.2f} s",
            f"{one['replay_us'] * one['records'] / 1e6:.2f} s",
            f"{one['memory_mib']:.0f} MiB",
            f"{one['memory_mib'] * (1 << 20) / one['records']:.0f} bytes",
        ]
        for one in kept["starts"]
    ]
    return "\n".join(
        [
            "CPU µs of one operation, tables half full, medians:\n",
            table(["keys", *(name.removesuffix("_us") for name in shown)], operations_rows),
            "A transceiver dies: the longest turn of control's loop (CPU), before and after:\n",
            table(
                ["its routes", "in one loop", "little by little", "removed", "busy", "left"],
                death_rows,
            ),
            "A control starts on the tables of another:\n",
            table(
                ["capacity", "records", "CPU", "silent at most", "replay", "memory", "a record"],
                start_rows,
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    begin = time.monotonic()
    kept: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "kernel": ".".join(platform.release().split(".")[:2])},
        "rounds": options.rounds,
        "starts": measure_starts(options.rounds),
        "deaths": measure_deaths(),
        "operations": measure_operations(options.rounds),
    }
    kept["took_s"] = round(time.monotonic() - begin, 1)
    print(answer(kept))
    options.results.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
