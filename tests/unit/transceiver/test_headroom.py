"""Without descriptors or memory no new call is taken, early enough to say so."""

import resource
from pathlib import Path

import pytest

from voicerelay.transceiver.headroom import (
    MIN_DESCRIPTORS,
    MIN_MEMORY_BYTES,
    descriptors_left,
    memory_left,
    shortage,
)

V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
V1 = (
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)


@pytest.mark.parametrize(
    ("descriptors", "memory", "short_of"),
    [
        (MIN_DESCRIPTORS, MIN_MEMORY_BYTES, ""),
        (float("inf"), float("inf"), ""),
        (MIN_DESCRIPTORS - 1, float("inf"), "file descriptors"),
        (float("inf"), MIN_MEMORY_BYTES - 1, "memory"),
        (-1, -1, "file descriptors"),
    ],
)
def test_a_shortage_has_a_name(descriptors: float, memory: float, short_of: str) -> None:
    assert shortage(descriptors, memory) == short_of


def test_each_open_file_is_one_less(tmp_path: Path) -> None:
    before = descriptors_left()

    with (tmp_path / "file").open("w"):
        assert descriptors_left() == before - 1


def host(root: Path, layout: tuple[str, str, str, str], group: str, most: str) -> Path:
    """A made-up host whose group has used 300 bytes, 100 of them for files."""
    base, limit, usage, cached = layout
    folder = root / base / group
    folder.mkdir(parents=True)
    (folder / limit).write_text(f"{most}\n")
    (folder / usage).write_text("300\n")
    (folder / "memory.stat").write_text(f"anon 200\n{cached} 100\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/statm").write_text("1 1 1 1 0 1 0\n")
    return root


@pytest.mark.parametrize("layout", [V2, V1], ids=["v2", "v1"])
@pytest.mark.parametrize("group", ["", "a/b"], ids=["container", "host"])
def test_a_control_groups_limit_counts_without_cached_files(
    tmp_path: Path, layout: tuple[str, str, str, str], group: str
) -> None:
    root = host(tmp_path, layout, group, "1000")
    (root / "proc/self/cgroup").write_text("4:cpu,memory:/a/b\n0::/a/b\n")

    assert memory_left(root) == 800


def test_no_limit_is_no_shortage(tmp_path: Path) -> None:
    assert memory_left(host(tmp_path, V2, "", "max")) == float("inf")
    assert memory_left(tmp_path / "nothing there") == float("inf")


def test_the_limit_of_the_address_space_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10 * resource.getpagesize(), -1))

    assert memory_left(host(tmp_path, V2, "", "max")) == 9 * resource.getpagesize()
