"""The lifecycle node `checkpoint_manager`: verifies the token store, announces the active version, and lets an operator
save (pin), restore, roll back and list. Versions are written by whoever aligns; the store's lock keeps both apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from rclpy.timer import Timer
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_align_ros.checkpoint.manifest import StoreError
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.checkpoint.version import TokenVersion
from vla_align_ros.params import ManagerParams, PolicyParams
from vla_align_ros.policy.config import load_model_config
from vla_align_ros.ros.lifecycle import SafeLifecycleNode
from vla_align_ros.ros.parameters import NodeParameters
from vla_align_ros.ros.sensors import LATCHED_QOS
from vla_align_ros.ros.steady import STEADY, THROTTLED
from vla_align_ros.zoo import ROOT_ROBOT, find_model, robot_of, store_folder

NAME = "checkpoint_manager"


class CheckpointManager(SafeLifecycleNode):
    """See the module's docstring, and `docs/reference.md`."""

    def __init__(self, policy_params: Callable[[], PolicyParams] | None = None) -> None:
        """policy_params: those of the policy in this process, whose model, store and robot are this node's too where
        its own parameters leave them empty.
        """
        super().__init__(NAME)
        self._settings = NodeParameters(self, ManagerParams, lambda: self.configured)
        self._policy_params = policy_params or self._params_of_a_policy_beside
        self._store: TokenStore | None = None
        self._timer: Timer | None = None
        self._announced: str | None = None
        self._problems: Mapping[str, str] = {}
        self._active_publisher = self.create_publisher(String, "~/active", LATCHED_QOS)
        for name, work in (
            ("save", self._save),
            ("restore", self._restore),
            ("roll_back", self._roll_back),
            ("list", self._list),
        ):
            self.create_service(Trigger, f"~/{name}", lambda request, response, work=work: self._serve(work, response))

    def configure(self) -> None:
        """Open the store and verify every version in it."""
        params, policy = self._settings.values, self._policy_params()
        store, model = params.store or policy.store, params.model or policy.model
        model_name = "" if store else load_model_config(find_model(model)).name
        root = store_folder(store, model_name, params.robot_id or policy.robot_id)
        self._store = TokenStore(root, params.keep_versions)
        self._timer = self.create_timer(params.poll_period_s, self._poll, clock=STEADY)
        self.get_logger().info(f"token store {root}")
        self._problems = {}
        self._say_problems(self._store.read().problems)

    def activate(self) -> None:
        """Begin to announce."""
        self._announced = None

    def cleanup(self) -> None:
        """Close the store."""
        self._store = self._announced = None
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None

    def _params_of_a_policy_beside(self) -> PolicyParams:
        """Of a policy in another process the namespace is known, and its usual name."""
        return PolicyParams(robot_id=robot_of(f"{self.get_namespace()}/{ROOT_ROBOT}"))

    def _poll(self) -> None:
        if self._store is not None and self.active:
            try:
                state = self._store.read()
            except StoreError as error:
                self.get_logger().error(str(error), **THROTTLED)
                return
            self._say_problems(state.problems)
            if state.active is not None and state.active.name != self._announced:
                self._announce(self._store, state.active)

    def _say_problems(self, problems: Mapping[str, str]) -> None:
        """Each once, as long as it stays the same."""
        for broken, problem in problems.items():
            if self._problems.get(broken) != problem:
                self.get_logger().error(f"{broken} in the token store is corrupted and will not be used: {problem}")
        self._problems = problems

    def _announce(self, store: TokenStore, version: TokenVersion) -> None:
        what = {"version": version.name, "sha256": version.manifest.token_sha256, "store": str(store.root.resolve())}
        self._active_publisher.publish(String(data=json.dumps(what)))
        self._announced = version.name

    def _serve(self, work: Callable[[TokenStore], str], response: Trigger.Response) -> Trigger.Response:
        """Answer a service: what `work` says, or why it could not be done."""
        if self._store is None:
            response.success, response.message = False, f"the node is {self.state_label}: configure it first"
            return response
        try:
            response.success, response.message = True, work(self._store)
        except StoreError as error:
            response.success, response.message = False, str(error)
        return response

    def _save(self, store: TokenStore) -> str:
        """Pin the active version, so that it is kept for good."""
        version = _active(store)
        store.pin(version.name)
        return json.dumps({"version": version.name, "sha256": version.manifest.token_sha256, "pinned": True})

    def _restore(self, store: TokenStore) -> str:
        """Make the newest valid version the active one."""
        versions = store.versions()
        if not versions:
            raise StoreError("the store has no valid version")
        return self._switched(store, store.restore(versions[-1].name))

    def _roll_back(self, store: TokenStore) -> str:
        return self._switched(store, store.roll_back())

    def _switched(self, store: TokenStore, version: TokenVersion) -> str:
        self._announce(store, version)
        return json.dumps({"version": version.name, "sha256": version.manifest.token_sha256})

    def _list(self, store: TokenStore) -> str:
        state = store.read()
        versions = [
            {"version": v.name, "reason": v.manifest.reason, "created_ns": v.manifest.created_ns}
            for v in state.versions.values()
        ]
        active = None if state.active is None else state.active.name
        return json.dumps(
            {"active": active, "pinned": sorted(state.pinned or ()), "versions": versions, "corrupted": state.problems}
        )


def _active(store: TokenStore) -> TokenVersion:
    version = store.active()
    if version is None:
        raise StoreError(
            "the store has no valid version yet: the policy node writes the first one when it is configured"
        )
    return version
