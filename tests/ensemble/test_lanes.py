"""Jobs in lanes: their results come in order, few wait, and threads are afterwards as before."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ensemble.lanes import in_lanes, shared_out
from zoo.choice import threads


@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_the_order_of_the_jobs(cores):
    last = threading.Event()

    def work(job):
        if cores > 1 and job == 0:
            last.wait(60)  # for one that comes later, and is done before
        if job == 2:
            last.set()
        return job

    with threads(cores):
        assert list(in_lanes(work, range(20))) == list(range(20))


def test_few_results_wait_for_one_that_takes_long():
    begun, go = [], threading.Event()

    def work(job):
        begun.append(job)
        if job == 0:
            go.wait(60)

    with threads(2):
        told = in_lanes(work, range(100))
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, told)
            assert not go.wait(0.2)
            assert len(begun) <= 4
            go.set()
            first.result()
        assert len(list(told)) == 99


@pytest.mark.parametrize(("cores", "jobs", "inside"), [(4, 9, 1), (4, 2, 2), (4, 1, 4), (1, 9, 1)])
def test_cores_are_shared_out_and_threads_are_afterwards_as_before(cores, jobs, inside):
    with threads(cores):
        seen = list(in_lanes(lambda _: torch.get_num_threads(), range(jobs)))
        assert seen == [inside] * jobs
        assert torch.get_num_threads() == cores
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == cores


def test_the_first_failure_is_told_and_ends_the_others():
    done = []

    def work(job):
        if job in (3, 5):
            raise ValueError(job)
        done.append(job)

    with threads(2):
        with pytest.raises(ValueError, match="3"):
            list(in_lanes(work, range(1000)))
        assert torch.get_num_threads() == 2
    assert len(done) < 20


def test_without_jobs_there_is_nothing():
    with threads(2):
        assert list(in_lanes(len, [])) == []
        assert shared_out([]) == []


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(7, None, [3, 3, 1]), (7, 2, [2, 2, 2, 1]), (2, 9, [1, 1])]
)
def test_every_core_gets_a_part(count, most, sizes):
    with threads(3):
        parts = shared_out(range(count), most)
    assert [len(part) for part in parts] == sizes
    assert [one for part in parts for one in part] == list(range(count))
