"""A recording as it happened: which messages are due when, and what time it is then. Free of ROS and of clocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.codecs import STRING

STEP_NS: Final = 10_000_000  # of recorded time between two readings of the clock


@dataclass
class Batch:
    """Messages that came by `clock_ns`. exact: they have no stamp of their own, so that the time at which they come is
    their time: the clock must stand until they are heard."""

    clock_ns: int
    exact: bool = False
    messages: list[BagMessage] = field(default_factory=list)


def batches(messages: Iterable[BagMessage], topics: Collection[str], from_ns: int, until_ns: int) -> Iterator[Batch]:
    """The time from `from_ns` to `until_ns` (0: the first and the last message) in steps of STEP_NS, with the messages
    on `topics`. A text that came before `from_ns` is still valid then: the last of each topic comes first."""
    held: dict[str, BagMessage] = {}
    batch, last_ns = Batch(0), 0
    for message in messages:
        if until_ns and message.t_ns > until_ns:
            break
        if message.t_ns < from_ns:
            if message.msgtype == STRING and message.topic in topics:
                held[message.topic] = message
            continue
        if not last_ns:
            batch.clock_ns = from_ns or message.t_ns
            yield Batch(batch.clock_ns, exact=True, messages=list(held.values()))
        last_ns = message.t_ns
        while batch.clock_ns < last_ns:
            yield batch
            batch = Batch(batch.clock_ns + STEP_NS)
        if message.topic in topics and message.msgtype == STRING:
            yield Batch(last_ns, messages=batch.messages)
            yield Batch(last_ns, exact=True, messages=[message])
            batch = Batch(batch.clock_ns)
        elif message.topic in topics:
            batch.messages.append(message)
    if last_ns:
        end_ns = until_ns or last_ns
        while batch.clock_ns < end_ns:
            yield batch
            batch = Batch(batch.clock_ns + STEP_NS)
        yield Batch(end_ns, messages=batch.messages)
