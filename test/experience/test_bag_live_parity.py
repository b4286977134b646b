"""A bag and the live run that it recorded give the same experiences, sample for sample, whatever the transport did."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import LAG_S, MS, PERIOD_NS, T0, TOPICS, Sent, eventful_run, feed, new_pipeline, record, same

from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.builder import ExperienceReason
from vla_align_ros.observation.assemble import ObservationReason
from vla_align_ros.observation.codecs import MessageReason
from vla_align_ros.types import Experience

pytestmark = pytest.mark.slow

RUN = eventful_run()
LAG_NS = round(LAG_S * 1e9)


def arrivals_of(random: Random, longest_ms: int) -> list[tuple[int, Sent]]:
    """Every message with a delay of its own below `longest_ms`, in order of arrival.

    Sensors may even overtake themselves. A publisher's chunks keep their order, as DDS guarantees, and a prompt has no
    stamp: its time is that of its arrival, so it takes none here.
    """
    newest_chunk_ns, arrivals = 0, []
    for sent in RUN:
        t_ns = sent.stamp_ns + random.randrange(longest_ms * MS)
        if sent.topic == TOPICS.command:
            t_ns = newest_chunk_ns = max(newest_chunk_ns, t_ns)
        arrivals.append((sent.stamp_ns if sent.topic == TOPICS.prompt else t_ns, sent))
    return sorted(arrivals, key=lambda arrival: arrival[0])


def live_experiences(arrivals: list[tuple[int, Sent]], random: Random, end_ns: int) -> list[Experience]:
    """A node: callbacks as messages arrive, and a control timer that is up to 90 ms late."""
    assembler, builder = new_pipeline()
    timers = [(tick_ns + random.randrange(90 * MS), None) for tick_ns in range(T0, end_ns - 90 * MS, PERIOD_NS)]
    made = []
    for t_ns, sent in sorted([*arrivals, *timers, (end_ns, None)], key=lambda event: event[0]):
        if t_ns > end_ns:
            break
        if sent is None:
            made += builder.advance(t_ns)
        else:
            feed(assembler, builder, sent, t_ns)
    return made


@given(st.randoms(use_true_random=False), st.integers(1, LAG_NS // MS))
@settings(max_examples=20)
def test_a_bag_gives_the_experiences_of_the_live_run(random: Random, longest_ms: int) -> None:
    node_hears, recorder_hears = arrivals_of(random, longest_ms), arrivals_of(random, longest_ms)
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder) / "bag", recorder_hears)
        from_bag = list(BagReading(Path(folder) / "bag", TOPICS, *new_pipeline()))
    live = live_experiences(node_hears, random, end_ns=recorder_hears[-1][0])
    assert len(live) > 10
    assert len(from_bag) == len(live)
    assert all(same(one, other) for one, other in zip(from_bag, live, strict=True))


def test_the_run_of_this_test_has_every_difficulty_in_it(tmp_path: Path) -> None:
    record(tmp_path / "bag", arrivals_of(Random(0), 200))
    assembler, builder = new_pipeline()
    made = list(BagReading(tmp_path / "bag", TOPICS, assembler, builder))
    assert {item.episode for item in made} == {0, 1, 2}
    assert {item.observation.prompt for item in made} == {"red", "blue"}
    assert builder.skipped[ExperienceReason.NO_COMMAND] > 0
    assert builder.skipped[ExperienceReason.PROMPT_CHANGED] > 0
    assert builder.skipped[ObservationReason.STALE_IMAGE] > 0
    assert assembler.refused[MessageReason.NON_FINITE] == 1
