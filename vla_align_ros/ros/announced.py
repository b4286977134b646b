"""Versions that the checkpoint manager makes active (restore, roll back): the policy runs with them, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rclpy.node import Node
from std_msgs.msg import String

from vla_align_ros.checkpoint.manifest import StoreError
from vla_align_ros.ros.sensors import LATCHED_QOS
from vla_align_ros.runtime import Runtime


class AnnouncedVersions:
    """Listens as long as the node is there. runtime: of the configured node, else None."""

    def __init__(self, node: Node, runtime: Callable[[], Runtime | None]) -> None:
        self._logger, self._runtime = node.get_logger(), runtime
        node.create_subscription(String, "checkpoint_manager/active", self._announced, LATCHED_QOS)

    def _announced(self, message: String) -> None:
        """Run with it, if it is of our store."""
        runtime = self._runtime()
        if runtime is None:
            return
        try:
            announced = json.loads(message.data)
            if Path(announced["store"]) != runtime.store.root.resolve() or announced["version"] == runtime.version_name:
                return
            version = runtime.store.active()
            if version is not None and version.name != runtime.version_name:
                runtime.use(version)
                self._logger.info(f"token version {version.name} runs, as the checkpoint manager announced")
        except (StoreError, ValueError, KeyError, TypeError) as error:
            self._logger.error(f"announced token version not used: {error}")
