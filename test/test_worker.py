from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vla_align_ros.worker import Worker

TIMEOUT_S = 10.0


class Errors(list[Exception]):
    """What a worker reports, and an event for it."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def __call__(self, error: Exception) -> None:
        self.append(error)
        self.came.set()


@pytest.fixture
def errors() -> Errors:
    return Errors()


@pytest.fixture
def worker(errors: Errors) -> Iterator[Worker]:
    made = Worker("test", errors)
    yield made
    made.stop(TIMEOUT_S)


def run(worker: Worker) -> str:
    """Let the worker do one job; the name of the thread that did it."""
    names: list[str] = []
    done = threading.Event()

    def job() -> None:
        names.append(threading.current_thread().name)
        done.set()

    while not worker.submit(job):  # the one before is about to end
        pass
    assert done.wait(TIMEOUT_S)
    return names[0]


def test_jobs_run_in_one_thread_of_its_own(worker: Worker) -> None:
    assert {run(worker) for _ in range(5)} == {"test"}


def test_job_that_comes_while_it_is_busy_is_turned_away_and_never_run(worker: Worker) -> None:
    started, go_on, late = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        started.set()
        go_on.wait(TIMEOUT_S)

    assert worker.submit(job)
    assert started.wait(TIMEOUT_S)
    assert worker.busy
    assert not worker.submit(late.set)
    go_on.set()
    run(worker)
    assert not late.is_set()


def test_only_one_of_many_that_submit_at_once_gets_through(worker: Worker) -> None:
    go_on = threading.Event()
    barrier = threading.Barrier(8)
    taken: list[bool] = []

    def submit() -> None:
        barrier.wait()
        taken.append(worker.submit(lambda: go_on.wait(TIMEOUT_S) and None))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    go_on.set()
    assert sorted(taken) == [False] * 7 + [True]


def test_error_is_reported_and_the_worker_goes_on(worker: Worker, errors: Errors) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    assert worker.submit(fail)
    assert errors.came.wait(TIMEOUT_S)
    assert run(worker) == "test"
    assert [str(error) for error in errors] == ["no"]


def test_stop_waits_for_the_running_job_and_takes_no_more(worker: Worker) -> None:
    started, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        started.set()
        go_on.wait(TIMEOUT_S)
        done.set()

    assert worker.submit(job)
    assert started.wait(TIMEOUT_S)
    assert not worker.stop(0.0), "still busy"
    assert not worker.submit(lambda: None)
    go_on.set()
    assert worker.stop(TIMEOUT_S)
    assert done.is_set()
    assert not worker.submit(lambda: None)


def test_idle_worker_stops_at_once(worker: Worker) -> None:
    assert worker.stop(TIMEOUT_S)
    assert worker.stop(TIMEOUT_S)
