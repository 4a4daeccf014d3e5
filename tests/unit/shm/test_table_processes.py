"""The table between real processes: readers beside a busy writer, writers that are killed, a million keys."""

import inspect
import json
import mmap
import os
import random
import secrets
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicerelay.shm.region import MAX_CAPACITY, MIN_CAPACITY, Region, Sizes, remove_segments
from voicerelay.shm.table import (
    EMPTY,
    KEY_BYTES,
    RECORD_BYTES,
    USED,
    Entry,
    TableReader,
    TableWriter,
)

KILLS = 120
CHURN_S = 2.0
PATIENCE_S = 20.0
RECORDS = 32  # half of them used: long clusters, much moving
STABLE, OTHERS = range(8), range(8, 40)
VIEW_AT = 64  # of the mapped file; the epoch stands at 0


def key_of(number: int) -> bytes:
    return number.to_bytes(2, "big") * (KEY_BYTES // 2)


def entry_of(key: bytes, version: int) -> Entry:
    """Every field follows from key and version, so a torn entry shows."""
    mark = zlib.crc32(key) ^ version
    return Entry(mark & 0xFFFF, mark, version, mark << 20)


SHARED = "\n".join(
    [
        "import json, mmap, os, random, sys, time, zlib",
        "from voicerelay.shm.region import Region",
        "from voicerelay.shm.table import KEY_BYTES, Entry, TableWriter",
        inspect.getsource(key_of),
        inspect.getsource(entry_of),
    ]
)
READER = """
table = Region.attach(sys.argv[1]).route_reader()
stable, others = [key_of(n) for n in range(8)], [key_of(n) for n in range(8, 40)]
reads = hits = torn = missed = 0
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for key in stable + random.sample(others, 8):
        entry = table.find(key)
        reads += 1
        if entry is not None:
            hits += 1
            torn += entry != entry_of(key, entry.session)
        elif key in stable:
            missed += 1
print(json.dumps(dict(reads=reads, hits=hits, torn=torn, missed=missed)), flush=True)
"""
# Forks a writer for each line it reads, which names the seed of what is written.
WRITERS = """
with open(sys.argv[1], "r+b") as file:
    view = memoryview(mmap.mmap(file.fileno(), 0))
others = [key_of(n) for n in range(8, 40)]
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        table = TableWriter(view[64:], view[:4], int(sys.argv[2]))
        dice = random.Random(int(line))
        while True:
            key = dice.choice(others)
            if dice.random() < 0.5:
                table.remove(key)
            elif key in table or len(table) < table.capacity:
                table.put(key, entry_of(key, dice.getrandbits(30)))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"vrtest-{secrets.token_hex(6)}"
    yield chosen
    remove_segments(chosen)


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SHARED + script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_reader_beside_a_busy_writer_sees_whole_entries_and_misses_none(name: str) -> None:
    # given a small table with keys that stay, and a reader process
    region = Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY))
    table = region.route_writer()
    for number in STABLE:
        table.put(key_of(number), entry_of(key_of(number), number))
    seed = secrets.randbits(32)
    dice = random.Random(seed)

    # when others are put, overwritten and removed as fast as may be
    with start(READER, name, str(CHURN_S)) as reader:
        assert line_of(reader) == "ready"
        writes = 0
        while reader.poll() is None:
            key = key_of(dice.choice(OTHERS))
            if dice.random() < 0.5:
                table.remove(key)
            elif key in table or len(table) < table.capacity:
                table.put(key, entry_of(key, dice.getrandbits(30)))
            writes += 1
            if writes % 64 == 0:
                os.sched_yield()
        seen = json.loads(line_of(reader))

    assert (seen["torn"], seen["missed"]) == (0, 0), f"seed {seed}: {seen}, {writes} writes"
    assert seen["hits"] > seen["reads"] / 2
    assert writes > 1000


def sound(view: memoryview, table: TableWriter) -> None:
    """What holds for every table that no writer is busy in."""
    reader = TableReader(view[VIEW_AT:], view[:4])
    held = dict(table.items())
    used = []
    for index in range(RECORDS):
        sequence, state, key = struct.unpack_from(
            "<I6xB13x20s", view, VIEW_AT + index * RECORD_BYTES
        )
        assert sequence % 2 == 0
        assert state in (EMPTY, USED)
        used += [key] * (state == USED)
    assert sorted(used) == sorted(held)  # each once
    for number in (*STABLE, *OTHERS):
        assert reader.find(key_of(number)) == held.get(key_of(number))
    assert all(entry == entry_of(key, entry.session) for key, entry in held.items())
    assert struct.unpack_from("<I", view)[0] % 2 == 0


def test_a_killed_writer_leaves_a_table_that_can_be_repaired(tmp_path: Path) -> None:
    # given a table with keys that stay, and a process that makes writers
    seed = secrets.randbits(32)
    dice = random.Random(seed)
    file = tmp_path / "table"
    file.write_bytes(bytes(VIEW_AT + RECORDS * RECORD_BYTES))
    with file.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    view = memoryview(mapped)
    table = TableWriter(view[VIEW_AT:], view[:4], RECORDS // 2)
    stable = {key_of(number): entry_of(key_of(number), number) for number in STABLE}
    for key, entry in stable.items():
        table.put(key, entry)
    repaired = 0

    with start(WRITERS, str(file), str(RECORDS // 2)) as writers:
        assert writers.stdin is not None
        for _ in range(KILLS):
            # when a writer is killed somewhere in its work
            writers.stdin.write(f"{dice.getrandbits(32)}\n")
            pid = int(line_of(writers))
            until_moved(view, dice.randrange(2, 200))
            for _ in range(dice.randrange(300)):
                pass
            os.kill(pid, signal.SIGKILL)
            assert line_of(writers) == "dead"

            # then its successor repairs what it left, and finds all that was not its to write
            table = TableWriter(view[VIEW_AT:], view[:4], RECORDS // 2)
            repaired += table.repaired
            sound(view, table)
            found = {key: table.find(key) for key in stable}
            assert found == stable, f"seed {seed}"
            assert TableWriter(view[VIEW_AT:], view[:4], RECORDS // 2).repaired == 0
        writers.stdin.close()

    assert repaired > 0, "no kill hit a write: this test tests nothing"


def until_moved(view: memoryview, by: int) -> None:
    """Wait until a writer has moved the epoch on so far."""
    begin = struct.unpack_from("<I", view)[0]
    deadline = time.monotonic() + PATIENCE_S
    while struct.unpack_from("<I", view)[0] - begin < by:
        assert time.monotonic() < deadline, "the writer does not write"
        os.sched_yield()


@pytest.mark.system
def test_a_million_routes_fit(name: str) -> None:
    # given the largest region there is
    sizes = Sizes.for_capacity(MAX_CAPACITY)
    stat = os.statvfs("/dev/shm")
    if stat.f_bavail * stat.f_frsize < sizes.total_bytes * 1.1:
        pytest.skip("/dev/shm is too small")
    region = Region.create(name, bytes(16), sizes)
    table = region.route_writer()
    seed = secrets.randbits(32)
    keys = random.Random(seed).randbytes(MAX_CAPACITY * KEY_BYTES)

    for number in range(MAX_CAPACITY):
        key = keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]
        table.put(key, Entry(number & 0xFF, 1, number, number))

    reader = region.route_reader()
    for number in range(0, MAX_CAPACITY, 97):
        key = keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]
        assert reader.find(key) == Entry(number & 0xFF, 1, number, number), f"seed {seed}"
    assert len(table) == MAX_CAPACITY
    assert reader.find(bytes(KEY_BYTES)) is None
