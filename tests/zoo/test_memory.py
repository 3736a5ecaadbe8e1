"""Memory: what steps allocate, what is free, and how its end is known."""

import pytest
import torch
from crowd import data, members, settings

from zoo import memory
from zoo.fit import Fit
from zoo.memory import Footprint, available, is_exhausted, most_members

CPU = torch.device("cpu")
MEMINFO = "/proc/meminfo"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend to run on a machine, or in a container, whose memory files say something."""

    class Files(type(tmp_path)):
        """Paths, but that of the kernel's figures leads into the temporary folder."""

        def __new__(cls, *parts):
            return super().__new__(
                cls, *((tmp_path / "meminfo",) if parts == (MEMINFO,) else parts)
            )

    monkeypatch.setattr(memory, "Path", Files)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    return write


STAT = "anon 7\nfile 900\ninactive_file 500\n"
TOLD = "MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:   5000 kB\nBuffers: 2 kB\n"


def test_what_the_machine_has_available_is_free(machine):
    machine(meminfo=TOLD)
    assert available(CPU) == 5000 * 1024


def test_a_container_has_no_more_than_its_limit_leaves(machine):
    machine(meminfo=TOLD, memory_max="3000000\n", memory_current="1000000\n", memory_stat=STAT)
    assert available(CPU) == 2_000_500  # pages of files that nobody uses are as good as free
    machine(memory_max="max\n")
    assert available(CPU) == 5000 * 1024
    machine(memory_max="900000000\n")
    assert available(CPU) == 5000 * 1024


def test_a_container_over_its_limit_has_nothing(machine):
    machine(meminfo=TOLD, memory_max="1000\n", memory_current="2000\n", memory_stat=STAT)
    assert available(CPU) == 0
    assert most_members(100, CPU) == 1


def test_where_nothing_can_be_read_there_is_no_limit(machine):
    assert available(CPU) == 1 << 62
    machine(meminfo="MemAvailable: many kB\n")
    assert available(CPU) == 1 << 62


def test_half_of_what_is_free_is_filled_with_members_but_there_is_always_one(machine):
    machine(meminfo="MemAvailable: 1000 kB\n")
    assert most_members(1024, CPU) == 500
    assert most_members(1025, CPU) == 499
    assert most_members(10**9, CPU) == 1
    assert most_members(0, CPU) == 512_000


def test_a_footprint_is_the_bytes_of_results_that_have_storage_of_their_own():
    x = torch.ones(10, 10)
    with Footprint() as footprint:
        y = x + 1
        y.add_(1)
        _ = y.view(100).unsqueeze(0).mT
    assert footprint.bytes == 400
    with Footprint() as footprint:
        _ = x @ x
        _ = x.sum(0)
        torch.add(x, x, out=y)
    assert footprint.bytes == 440


def test_a_step_that_needs_more_leaves_fewer_members_at_once(machine):
    crowd = members(*[settings(model={"hidden": [64]}, train={"epochs": 1})] * 6)
    machine(meminfo="MemAvailable: 100000000 kB\n")
    assert Fit(crowd, data("iris"), engine="sequential", device="cpu").choice.width == 6
    machine(meminfo="MemAvailable: 400 kB\n")
    narrow = Fit(crowd, data("iris"), engine="sequential", device="cpu").choice.width
    assert 1 <= narrow < 6
    asked = Fit(crowd, data("iris"), engine="sequential", device="cpu", width=6)
    assert asked.choice.width == 6


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_the_end_of_memory_is_told_from_other_errors(error, exhausted):
    assert is_exhausted(error) is exhausted


def test_an_allocation_that_no_machine_can_make_is_known_as_the_end_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_exhausted(caught.value)
