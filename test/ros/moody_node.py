"""A lifecycle node whose callbacks raise: those named in its parameter `broken`. Run as a process by test_lifecycle."""

import sys

from std_msgs.msg import Bool, String

from vla_align_ros.ros import process
from vla_align_ros.ros.lifecycle import SafeLifecycleNode


class Moody(SafeLifecycleNode):
    """Says `output` when it is active, and in `freed` whether what a configure made is gone."""

    def __init__(self) -> None:
        super().__init__("moody")
        self.declare_parameter("broken", "")
        self._made = False
        self._output = self.create_lifecycle_publisher(String, "~/output", 10)
        self._freed = self.create_publisher(Bool, "~/freed", 10)
        self.create_timer(0.05, self._say)

    def _say(self) -> None:
        self._output.publish(String(data="alive"))
        self._freed.publish(Bool(data=not self._made))

    def _maybe(self, name: str) -> None:
        if name in self.get_parameter("broken").value.split():
            raise RuntimeError(f"{name} went wrong")

    def configure(self) -> None:
        self._made = True
        self._maybe("configure")

    def activate(self) -> None:
        self._maybe("activate")

    def deactivate(self) -> None:
        self._maybe("deactivate")

    def cleanup(self) -> None:
        self._maybe("cleanup")
        self._made = False


if __name__ == "__main__":
    made: list[Moody] = []

    def make() -> list[list[Moody]]:
        made.append(Moody())
        return [made]

    sys.exit(process.run(make, lambda: made[0].shut_down(), lambda: None))
