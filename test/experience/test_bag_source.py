from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from simulated_run import (
    HORIZON,
    MS,
    T0,
    TOPICS,
    Sent,
    chunk_message,
    new_pipeline,
    record,
    same,
    sensor_messages,
)

from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.bag_source import BagSource, bag_sources
from vla_align_ros.experience.source import drawn
from vla_align_ros.observation.codecs import encode_string

FROZEN_MS, TORN_MS = range(5000, 8000), range(11000, 11500)
PICTURE_SIZE = 8  # of `new_pipeline`: pictures of this size stay as they are


def read(paths: Sequence[Path]) -> BagReading:
    return BagReading(paths, TOPICS, *new_pipeline())


def twenty_seconds() -> list[Sent]:
    """One camera shows the very same for a while, the other one's messages are torn for a while."""
    base, wrist = TOPICS.cameras["base"], TOPICS.cameras["wrist"]
    run, shown = [Sent(TOPICS.prompt, T0 + MS, encode_string("red"))], b""
    for sent in sensor_messages(0, 20_000):
        at_ms, raw = (sent.stamp_ns - T0) // MS, sent.raw
        if sent.topic == base:
            shown = shown if at_ms in FROZEN_MS else raw[12:]
            raw = raw[:12] + shown  # behind the stamp
        elif sent.topic == wrist and at_ms in TORN_MS:
            raw = raw[:-1]
        run.append(Sent(sent.topic, sent.stamp_ns, raw))
    run += [chunk_message(tick, float(tick)) for tick in range(2, 200, 4)]
    return sorted(run, key=lambda sent: sent.stamp_ns)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    record(tmp_path / "bag", [(sent.stamp_ns, sent) for sent in twenty_seconds()])
    return tmp_path / "bag"


def test_a_shuffled_shard_is_what_a_reading_in_order_has_at_these_places(bag: Path) -> None:
    reading = read([bag])
    whole = list(reading)
    assert {"frozen_image", "stale_image"} <= reading.summary.left_out.keys()
    assert "malformed" in reading.summary.topics[1].refused
    for source in bag_sources({"arm": [bag]}, {}, read, HORIZON):
        assert isinstance(source, BagSource)
        shard = source.samples(np.zeros(100, np.int64), HORIZON, PICTURE_SIZE, np.random.default_rng(0))
        for item, commands, place in zip(shard.experiences, shard.actions, drawn_places(source), strict=True):
            assert same(item, whole[place])
            np.testing.assert_array_equal(commands, whole[place].commands)


def drawn_places(source: BagSource) -> list[int]:
    """Of 100 samples in the recording."""
    stretches = source.stretches["arm"]
    counts = [part.stop - part.first for part in stretches]
    found = drawn(np.zeros(100, np.int64), lambda _: counts, np.random.default_rng(0))
    places = {
        entry: stretches[number].first + first
        for (_, number), entries_of in found.items()
        for first, entries in entries_of.items()
        for entry in entries
    }
    return [places[entry] for entry in range(100)]


def test_training_and_validation_share_no_tick(bag: Path) -> None:
    training, validation = (
        source.samples(np.zeros(200, np.int64), HORIZON, None, np.random.default_rng(0)).experiences
        for source in bag_sources({"arm": [bag]}, {}, read, HORIZON)
    )
    assert max(item.next_observation.stamp_ns for item in training) < min(
        item.observation.stamp_ns for item in validation
    )
