"""A lifecycle node that cannot be killed by its callbacks or by a stranger's request.

rclpy swallows what a transition raises without a line in the log, and an unknown transition id raises out of spin().
Here every transition logs its error and goes through error processing to `unconfigured`, where a corrected parameter
and another configure work; every bad request is answered with success=False.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleState
from rclpy.node import Node

END_TIMEOUT_S = 3.0  # less than the 5 s after which launch sends a second signal


class SafeLifecycleNode(LifecycleNodeMixin, Node):
    """Subclasses implement `configure`, `activate`, `deactivate`, `cleanup`, which raise to refuse."""

    def __init__(self, name: str) -> None:
        Node.__init__(self, name)
        LifecycleNodeMixin.__init__(self, callback_group=MutuallyExclusiveCallbackGroup())
        self._transition_lock = threading.RLock()
        self._ending = False
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._answer_change_state

    def configure(self) -> None:
        """Load, verify, warm up."""

    def activate(self) -> None:
        """Begin to run."""

    def deactivate(self) -> None:
        """Stop and hold."""

    def cleanup(self) -> None:
        """Free everything. Called from any state, also half-way through a failed configure."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.activate, lambda: super(SafeLifecycleNode, self).on_activate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.deactivate, lambda: super(SafeLifecycleNode, self).on_deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if state.state_id == State.PRIMARY_STATE_ACTIVE:
            self._transition(self.deactivate, lambda: super(SafeLifecycleNode, self).on_deactivate(state))
        self._transition(self.cleanup)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what there is and be ready for another configure."""
        super().on_deactivate(state)  # lifecycle publishers would stay enabled
        self._transition(self.cleanup)
        return TransitionCallbackReturn.SUCCESS

    def _transition(
        self, work: Callable[[], None], also: Callable[[], object] = lambda: None
    ) -> TransitionCallbackReturn:
        try:
            work()
            also()
        except Exception as error:  # noqa: BLE001 (error processing, never a crash)
            self.get_logger().error(f"{work.__name__} failed: {error}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _answer_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """The service's callback, which in rclpy raises out of spin() for an unknown or impossible transition."""
        try:
            with self._transition_lock:
                return self._change_state(request, response)
        except Exception as error:  # noqa: BLE001 (a stranger's request must not end the node)
            wanted = request.transition.label or request.transition.id
            self.get_logger().error(f"transition {wanted} is not possible from {self.state_label}: {error}")
            response.success = False
            return response

    @property
    def state_label(self) -> str:
        """`unconfigured`, `inactive`, `active` or `finalized`."""
        return str(self._state_machine.current_state[1])

    @property
    def configured(self) -> bool:
        """Whether it has read its parameters, or is about to."""
        return self.state_label not in ("unconfigured", "finalized")

    @property
    def active(self) -> bool:
        return int(self._state_machine.current_state[0]) == State.PRIMARY_STATE_ACTIVE

    def start_up(self) -> None:
        """Configure and activate; what fails is logged, and the node waits unconfigured. Not if someone was faster, and
        no further once `shut_down` was called."""
        with self._transition_lock:
            if self._ending or self.state_label != "unconfigured":
                return
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS and not self._ending:
                self.trigger_activate()

    def destroy_node(self) -> None:
        """Also the state machine, which rclpy forgets: it keeps the participant, and with it its 34 MB in /dev/shm,
        until the interpreter ends, and for good where the process is ended before."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def shut_down(self) -> None:
        """From whatever state to finalized, deactivating on the way. A transition that takes longer than
        END_TIMEOUT_S, as to load a large model does, is left alone: nothing was commanded in it.
        """
        self._ending = True
        if not self._transition_lock.acquire(timeout=END_TIMEOUT_S):
            self.get_logger().warning(f"ends while {self.state_label}")
            return
        try:
            if self.state_label in ("unconfigured", "inactive", "active"):
                self.trigger_shutdown()
        finally:
            self._transition_lock.release()
