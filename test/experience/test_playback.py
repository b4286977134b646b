"""When each message of a recording is due, and what time it is then."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from simulated_run import MS, T0, TYPES, eventful_run

from vla_align_ros.experience.playback import STEP_NS, batches
from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.codecs import STRING

RUN = [BagMessage(sent.topic, TYPES[sent.topic], sent.stamp_ns, sent.raw) for sent in eventful_run()]


@given(st.integers(0, 2900), st.integers(3000, 7000), st.sets(st.sampled_from(sorted(TYPES)), min_size=1))
def test_everything_comes_once_in_order_and_never_before_its_time(start_ms, end_ms, topics):
    from_ns, until_ns = T0 + start_ms * MS, T0 + end_ms * MS
    played = list(batches(RUN, topics, from_ns, until_ns))
    clocks = [batch.clock_ns for batch in played]
    assert clocks == sorted(clocks)
    assert (clocks[0], clocks[-1]) == (from_ns, until_ns)
    assert all(later - earlier <= STEP_NS for earlier, later in pairwise(clocks))
    sent = [message for batch in played[1:] for message in batch.messages]
    assert sent == [message for message in RUN if message.topic in topics and from_ns <= message.t_ns <= until_ns]
    for batch in played[1:]:
        assert all(batch.clock_ns - STEP_NS <= message.t_ns <= batch.clock_ns for message in batch.messages)
        assert batch.exact == any(message.msgtype == STRING for message in batch.messages)
        assert not batch.exact or batch.messages[0].t_ns == batch.clock_ns


def test_the_text_that_was_valid_before_comes_first():
    played = list(batches(RUN, TYPES, T0 + 1000 * MS, T0 + 2000 * MS))
    assert [message.raw for message in played[0].messages] == [RUN[[m.topic for m in RUN].index("/prompt")].raw]


def test_without_limits_it_is_all_of_the_bag():
    played = list(batches(RUN, TYPES, 0, 0))
    assert (played[0].clock_ns, played[-1].clock_ns) == (RUN[0].t_ns, RUN[-1].t_ns)
    assert [message for batch in played for message in batch.messages] == RUN


def test_nothing_in_the_time_is_nothing_played():
    assert list(batches(RUN, TYPES, T0 + 10_000 * MS, 0)) == []
