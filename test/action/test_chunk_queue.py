from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.action.chunk_queue import HELD_CHUNKS, ChunkQueue
from vla_align_ros.types import ActionChunk

PERIOD_NS = 100


def chunk_at(stamp_ns: int, *values: float) -> ActionChunk:
    return ActionChunk(np.array(values, np.float32)[:, None], np.zeros(1, np.float32), stamp_ns, PERIOD_NS)


def ask(queue: ChunkQueue, *ticks: int) -> list[float | None]:
    answers = [queue.command_at(tick) for tick in ticks]
    return [None if answer is None else float(answer[0]) for answer in answers]


def test_row_i_holds_for_its_interval() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(1000, 1, 2, 3))
    assert ask(queue, 999, 1000, 1099, 1100, 1299, 1300) == [None, 1, 1, 2, 3, None]


def test_the_newest_started_chunk_answers() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(1000, 1, 2, 3, 4))
    queue.put(chunk_at(1200, 10, 11))
    assert ask(queue, 1100, 1200, 1300, 1400) == [2, 10, 11, None]


def test_a_late_chunk_starts_in_its_middle() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(1000, 1, 2, 3))
    assert ask(queue, 1200) == [3]


def test_nothing_stale_comes_back_when_the_newest_chunk_ends() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(1000, *range(9)))
    queue.put(chunk_at(1100, 50))
    assert ask(queue, 1100, 1200, 1300) == [50, None, None]


def test_the_same_stamp_is_replaced() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(1000, 1))
    queue.put(chunk_at(1000, 2))
    assert ask(queue, 1000) == [2]


def test_after_a_clock_jump_backwards_no_old_chunk_comes_to_life() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(5000, 1, 2))
    queue.put(chunk_at(1000, 3, 4))
    assert ask(queue, 1000, 1100, 5000) == [3, 4, None]
    assert len(queue._chunks) == 1


def test_ran_dry_counts_each_end_once() -> None:
    queue = ChunkQueue(PERIOD_NS)
    ask(queue, 900)
    assert queue.ran_dry == 0  # nothing was there yet
    queue.put(chunk_at(1000, 1))
    ask(queue, 1000, 1100, 1200, 1300)
    assert queue.ran_dry == 1
    queue.put(chunk_at(1400, 1))
    ask(queue, 1400, 1500)
    assert queue.ran_dry == 2


def test_an_intended_stop_is_not_running_dry() -> None:
    queue = ChunkQueue(PERIOD_NS)
    queue.put(chunk_at(1000, 1, 2))
    ask(queue, 1000)
    queue.clear()
    assert ask(queue, 1100) == [None]
    assert queue.ran_dry == 0


def test_remaining_spans_chunks_that_follow_without_a_gap() -> None:
    queue = ChunkQueue(PERIOD_NS)
    assert queue.remaining(1000) == 0
    queue.put(chunk_at(1000, 1, 2, 3))
    assert [queue.remaining(tick) for tick in (900, 1000, 1250, 1300)] == [0, 3, 1, 0]
    queue.put(chunk_at(1300, 4, 5))
    assert queue.remaining(1000) == 5
    queue.put(chunk_at(1700, 6))
    assert queue.remaining(1000) == 5


def test_another_period_is_refused() -> None:
    with pytest.raises(ValueError, match="period of 100 ns, the chunk at 50 ns"):
        ChunkQueue(PERIOD_NS).put(ActionChunk(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), 0, 50))
    with pytest.raises(ValueError, match="above 0"):
        ChunkQueue(0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=8))
def test_the_answer_is_that_of_the_rule_over_all_chunks(starts: list[tuple[int, int]]) -> None:
    chunks = [
        chunk_at(start * 50, *(1000 * index + row for row in range(rows)))
        for index, (start, rows) in enumerate(sorted(dict(starts).items()))
    ]
    queue = ChunkQueue(PERIOD_NS)
    for chunk in chunks:
        queue.put(chunk)
    for tick in range(0, 2500, 25):
        started = [chunk for chunk in chunks if chunk.stamp_ns <= tick]
        expected = None
        if started:
            row = (tick - started[-1].stamp_ns) // PERIOD_NS
            expected = float(started[-1].actions[row, 0]) if row < len(started[-1].actions) else None
        assert ask(queue, tick) == [expected]


def test_memory_stays_bounded_while_it_runs() -> None:
    queue = ChunkQueue(PERIOD_NS)
    for tick in range(0, 100_000, PERIOD_NS):
        queue.put(chunk_at(tick, 1, 2, 3))
    assert len(queue._chunks) == HELD_CHUNKS
    assert ask(queue, 99_800, 99_900, 100_100, 100_200) == [1, 1, 3, None]


def test_threads_may_put_and_ask_at_once() -> None:
    queue = ChunkQueue(PERIOD_NS)
    wrong: list[object] = []

    def put() -> None:
        for stamp in range(0, 20_000, PERIOD_NS):
            queue.put(chunk_at(stamp, *[stamp // PERIOD_NS] * 4))

    def read() -> None:
        for tick in range(0, 20_000, PERIOD_NS):
            answer = queue.command_at(tick)
            queue.remaining(tick)
            if answer is not None and not tick // PERIOD_NS - 4 < answer[0] <= tick // PERIOD_NS:
                wrong.append((tick, answer))

    threads = [threading.Thread(target=put), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
