"""What was in a bag and what became of it, in numbers and in words: nothing that is refused goes unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TopicSummary:
    """One needed topic. what: `camera base_0_rgb`, `joints`, `prompt`, `commands`, or somebody else's `commands`.

    messages: read. declared: how many the bag says there are, 0 where it does not say. refused: by reason code, with
    the first refusal of each in `first`. age_s: from stamp to receipt, the middle one, by the clock that experience
    is built by; None where no message is stamped.
    """

    what: str
    topic: str
    msgtype: str
    messages: int
    declared: int
    refused: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    age_s: float | None = None

    def refuse(self, reason: str, text: str) -> None:
        """Count one message that was not taken."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self.first.setdefault(reason, text)

    def lines(self) -> list[str]:
        """For people."""
        of = f" of {self.declared}" if self.declared > self.messages else ""
        found = f"{self.what}: {self.topic} ({self.msgtype}), {self.messages}{of} messages"
        return [
            f"{found}, {sum(self.refused.values())} refused" if self.refused else found,
            *(f"  {count} {reason}, the first: {self.first[reason]}" for reason, count in _most_first(self.refused)),
        ]


@dataclass
class BagSummary:
    """One recording. left_out: ticks at which a command was in force and that gave no experience, by reason code.
    lost: what could not be read. notes: what else is to be known, about clocks and prompts too."""

    name: str
    topics: list[TopicSummary] = field(default_factory=list)
    experiences: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in _most_first(self.left_out))
        made = f"experiences: {self.experiences}; left out: {reasons or 'none'}"
        return [
            f"{self.name}:",
            *(f"  {line}" for topic in self.topics for line in topic.lines()),
            f"  {made}",
            *(f"  {line}" for line in self.remarks()),
        ]

    def remarks(self) -> list[str]:
        """For people: what is missing, and what is to be known."""
        return [*(f"missing: {text}" for text in self.lost), *(f"note: {text}" for text in self.notes)]


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])
