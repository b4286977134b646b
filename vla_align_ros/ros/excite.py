"""`~/excite` and the parameter `excite`: the robot moves a little around where it stands. See `action/excitation.py`.

A SetBool: who starts a motion must be able to stop it. true answers when it is over, like `~/align`; false stops it.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from std_srvs.srv import SetBool

from vla_align_ros.action.excitation import Excitation, count_excited
from vla_align_ros.observation.assemble import ObservationRefused
from vla_align_ros.params import PolicyParams
from vla_align_ros.ros.lifecycle import SafeLifecycleNode
from vla_align_ros.runtime import Runtime


class Exciting:
    """Of one node. params: as they are now. runtime: of the configured node, else None. hold: stops the robot."""

    def __init__(
        self,
        node: SafeLifecycleNode,
        service: str,
        params: Callable[[], PolicyParams],
        runtime: Callable[[], Runtime | None],
        hold: Callable[[], object],
    ) -> None:
        self._node, self._params, self._runtime, self._hold = node, params, runtime, hold
        self._asked: tuple[Runtime, Excitation, Future | None] | None = None  # not reported yet, and who waits for it
        # Of a group of its own: it waits, and nothing else may wait with it.
        node.create_service(SetBool, service, self._answer, callback_group=ReentrantCallbackGroup())

    def begin(self, runtime: Runtime, params: PolicyParams, waiting: Future | None = None) -> None:
        """As soon as the robot stands. ValueError while another one is under way."""
        excitation = Excitation(params.excite_s, params.excite_size_rad)
        runtime.controller.excite(excitation)
        self._report()  # of one that was stopped a moment ago
        self._asked = runtime, excitation, waiting
        self._node.get_logger().info(f"excites the robot for {params.excite_s:g} s once it stands")

    def poll(self, now_ns: int) -> None:
        """Report one that is over, when what it brought is complete. To be called often, after experience was taken."""
        if self._asked is None or not self._asked[1].over:
            return
        since_ns, lag_ns = now_ns - self._asked[1].until_ns, round(self._params().experience_lag_s * 1e9)
        if not self._node.active or not 0 <= since_ns < lag_ns:
            self._report()

    def _report(self) -> None:
        if self._asked is None:
            return
        (runtime, excitation, waiting), self._asked = self._asked, None
        sentence = _sentence(runtime, excitation)
        self._node.get_logger().info(sentence)
        if waiting is not None:
            waiting.set_result((not excitation.problem, sentence))

    async def _answer(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        runtime, problem = self._runtime(), ""
        if runtime is None or not self._node.active:
            problem = f"the node is {self._node.state_label}: activate it first"
        elif not request.data:
            response.success, response.message = self._stop(runtime)
            return response
        elif not self._params().drives:
            problem = "the node only observes (experience_source, publish_chunks): it moves no robot"
        else:
            done: Future = Future(executor=self._node.executor)
            try:
                runtime.assembler.observe(self._node.get_clock().now().nanoseconds)
                self.begin(runtime, self._params(), done)
            except (ObservationRefused, ValueError) as refused:
                problem = str(refused)
            else:
                response.success, response.message = await done
                return response
        response.success, response.message = False, f"not excited: {problem}"
        return response

    def _stop(self, runtime: Runtime) -> tuple[bool, str]:
        if runtime.controller.excitation is None:
            return True, "the robot is not being excited"
        self._hold()
        return True, "stopped; the policy goes on"


def _sentence(runtime: Runtime, excitation: Excitation) -> str:
    """What came of one that is over."""
    span_ns = excitation.begin_ns, excitation.until_ns
    count = count_excited(runtime.buffer.snapshot(), [span_ns])
    lasted_s = (excitation.until_ns - excitation.begin_ns) * 1e-9
    said = f"excited for {lasted_s:.1f} s: {count} experiences came from it" if lasted_s else "not excited"
    still = f"; {', '.join(excitation.still)} stayed still" if lasted_s and excitation.still else ""
    return f"{said}{still}{f'; it ended early: {excitation.problem}' if excitation.problem else ''}"
