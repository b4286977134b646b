"""The lifecycle node `vla_policy`: sensors in, action chunks out, alignment on the side. Wiring only; see `runtime.py`.

Threads: the sensor node's executor feeds the assembler; this node's executor runs lifecycle, services and timers;
one worker infers, one aligns. They meet only in thread-safe parts of the runtime.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, replace

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger

from vla_align_ros.action.limits import ChunkRefused
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.alignment.report import AlignReport, StepCurve
from vla_align_ros.alignment.waiting import left_out_sentence
from vla_align_ros.checkpoint.manifest import StoreError
from vla_align_ros.checkpoint.owner import StoreOwnership
from vla_align_ros.observation.assemble import ObservationRefused
from vla_align_ros.observation.codecs import encode_trajectory
from vla_align_ros.observation.stamps import ClockWatch
from vla_align_ros.params import ManagerParams, PolicyParams
from vla_align_ros.policy import load_policy
from vla_align_ros.ros.announced import AnnouncedVersions
from vla_align_ros.ros.command_groups import Commands
from vla_align_ros.ros.diagnostics import Health, build, build_unconfigured
from vla_align_ros.ros.excite import Exciting
from vla_align_ros.ros.experience_source import ExperienceSource, make_source, status_of
from vla_align_ros.ros.lifecycle import SafeLifecycleNode
from vla_align_ros.ros.parameters import NodeParameters
from vla_align_ros.ros.periodic import PeriodicAlignment
from vla_align_ros.ros.prompt import OwnPrompt
from vla_align_ros.ros.sensors import LATCHED_QOS, SensorNode
from vla_align_ros.ros.steady import STEADY, THROTTLED
from vla_align_ros.runtime import AlignmentStopped, Runtime, make_runtime
from vla_align_ros.types import Trajectory
from vla_align_ros.worker import Worker
from vla_align_ros.zoo import find_model, robot_of, store_folder

NAME = "vla_policy"
CONTROL_POLL_S = 0.01  # how often a new control tick is looked for
SAY_WAITING_EVERY_S = 60.0
STOP_TIMEOUT_S = 1.0  # an alignment stops after a gradient step; a process that ends does not wait longer for it
HEARD_TIMEOUT_S = 1.0  # for a hold to arrive
CURVES = (
    "align/loss/perception",
    "align/loss/dynamics",
    "align/loss/inverse_dynamics",
    "align/e_token_norm",
    "align/grad_norm",
    "align/lr",
    "inference/latency_ms",
)


class VlaPolicy(SafeLifecycleNode):
    """See the module's docstring, and `docs/reference.md` for topics, services and parameters."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._settings = NodeParameters(self, PolicyParams, lambda: self.configured)
        self.sensors = SensorNode(self)
        self._ownership: StoreOwnership | None = None
        self._own_prompt: OwnPrompt | None = None
        self._runtime: Runtime | None = None
        self._source: ExperienceSource | None = None
        self._commands: Commands | None = None  # only of a node that drives the robot
        self._inference: Worker | None = None
        self._alignment: Worker | None = None
        self._health = Health()
        self._status_name = self.get_fully_qualified_name().removeprefix("/")  # says which robot
        self._clock_watch = ClockWatch()
        self._periodic: PeriodicAlignment | None = None
        self._wire = threading.Lock()  # no chunk may go out behind the hold
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._reports = self.create_publisher(String, "~/align/report", LATCHED_QOS)
        self._curves = {name: self.create_publisher(Float64, f"~/{name}", 10) for name in CURVES}
        # Of a group of its own: it waits for the alignment, and nothing else may wait with it.
        self.create_service(Trigger, "~/align", self._align_service, callback_group=ReentrantCallbackGroup())
        self.create_service(Trigger, "~/reset_e_token", self._reset_e_token)
        self.create_service(Trigger, "~/clear_buffer", self._clear_buffer)
        self._exciting = Exciting(self, "~/excite", lambda: self.params, lambda: self._runtime, self._hold)
        self._announced = AnnouncedVersions(self, lambda: self._runtime)
        self.create_timer(CONTROL_POLL_S, self._control, clock=STEADY)
        self.create_timer(0.2, self._take_experience, clock=STEADY)
        self.create_timer(1.0, self._report_health, clock=STEADY)

    @property
    def params(self) -> PolicyParams:
        """As they are now, with the robot's name where none was set."""
        params = self._settings.values
        return replace(params, robot_id=params.robot_id or robot_of(self.get_fully_qualified_name()))

    # --- lifecycle ---

    def configure(self) -> None:
        """Load and verify model and token, warm up, and begin to listen."""
        policy = load_policy(find_model(self.params.model), self.params.device, self.params.dtype)  # type: ignore[arg-type]
        self._settings.recommend(asdict(policy.config.recommended))
        params = self.params
        if policy.token is not None:
            root = store_folder(params.store, policy.config.name, params.robot_id)
            self._ownership = StoreOwnership.take(root, params.robot_id)
        self._runtime = runtime = make_runtime(policy, params, ManagerParams().keep_versions)
        self._health = Health()
        self._inference = Worker("inference", self._job_failed)
        self._alignment = Worker("alignment", self._job_failed)
        policy.warm_up(params.num_steps)
        if params.prompt:
            runtime.assembler.push_prompt(params.prompt, 0)
            self._own_prompt = OwnPrompt(self, "~/prompt", params.prompt)
        self._source = make_source(self, self.sensors, runtime, params)
        self._periodic = PeriodicAlignment(self._source)
        if params.drives:
            robot, ears = policy.config.robot, self.sensors.get_fully_qualified_name()
            self._commands = Commands(self, robot.command_groups, robot.period_ns, self._now_ns, ears)
        if params.drives or params.experience_source != "bag":
            self.sensors.connect(runtime.assembler, self._own_prompt)
        self.get_logger().info(
            f"robot {params.robot_id}: model {policy.config.name} on {policy.device}, "
            f"token version {runtime.version_name} from {runtime.store.root}; experience from {self._source.sentence}"
            f"{'' if params.drives else '; observing: nothing is sent'}"
        )
        for remark in filter(None, (*policy.remarks, policy.align_problem)):
            self.get_logger().warning(remark)

    def activate(self) -> None:
        """Excite the robot first, where the parameters say so."""
        if self._runtime is not None and self._commands is not None and self.params.excite:
            self._exciting.begin(self._runtime, self.params)

    def deactivate(self) -> None:
        """Stop the robot, where the node drives it, and see to it that the hold arrives."""
        if not self._hold() or self._commands is None:  # what was sent last is no hold, and must not be sent again
            return
        if unheard := self._commands.wait_until_heard(HEARD_TIMEOUT_S):
            text = "nobody confirms the last command: has what listens there ended, or lost its network?"
            self.get_logger().warning(f"{', '.join(unheard)}: {text}")

    def _hold(self) -> bool:
        """Publish one hold at the measured position, if a chunk was sent since the last one. False where it must be and
        cannot, since nobody knows where the arm is."""
        held = True
        if self._runtime is not None and self._commands is not None:
            with self._wire:
                try:
                    hold = self._runtime.controller.hold(self._now_ns())
                    if hold is not None:
                        self._publish(hold)
                except ObservationRefused as refused:
                    held = False
                    text = "no hold, a trajectory ends at rest by itself, a stream where it is"
                    self.get_logger().warning(f"{text}: {refused}")
                self._commands.stop()
        return held

    def cleanup(self) -> None:
        """Stop the workers and free the model."""
        self.sensors.disconnect()
        if self._own_prompt is not None:
            self._own_prompt.withdraw()
        if self._source is not None:
            self._source.stop()
        if self._commands is not None:
            self._commands.close()
        self._own_prompt = self._source = self._commands = self._periodic = None
        workers = (self._inference, self._alignment)
        if self._runtime is not None:
            self._runtime.close()
        self._inference = self._alignment = self._runtime = None
        for worker in workers:
            if worker is not None and not worker.stop(STOP_TIMEOUT_S):
                self.get_logger().warning("a worker is still busy; what it does will not be used")
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None

    # --- control ---

    def _control(self) -> None:
        runtime, worker = self._runtime, self._inference
        if not self.active or self._commands is None or runtime is None or worker is None or worker.busy:
            return
        now_ns = self._now_ns()
        tick_ns = runtime.controller.tick(now_ns) if now_ns > 0 else None
        if tick_ns is not None:
            worker.submit(lambda: self._infer(runtime, tick_ns))

    def _infer(self, runtime: Runtime, tick_ns: int) -> None:
        """In the inference thread."""
        params = self._settings.values
        try:
            published = runtime.controller.make(tick_ns, params.num_steps, params.exploration_fraction, self._now_ns)
        except (ObservationRefused, ChunkRefused) as refused:
            self._health.problem = str(refused)
            self.get_logger().warning(f"no chunk: {refused}", **THROTTLED)
            return
        with self._wire:
            if runtime is not self._runtime or not self.active or runtime.controller.outdated(published):
                return
            self._publish(published.trajectory)
            now_ns = self._now_ns()
            runtime.controller.sent(published, now_ns)
        latency_ms = (now_ns - tick_ns) * 1e-6
        self._health.chunk_sent(latency_ms)
        self._curves["inference/latency_ms"].publish(Float64(data=latency_ms))

    def _publish(self, trajectory: Trajectory) -> None:
        """The same bytes to the experience and to the wire."""
        raw, source, commands = encode_trajectory(trajectory), self._source, self._commands
        if source is not None and commands is not None:
            source.sent(raw, self._now_ns())
            commands.publish(raw, trajectory)

    def _take_experience(self) -> None:
        if self._source is not None:
            self._source.poll(self._now_ns(), self.active)
        self._exciting.poll(self._now_ns())

    # --- alignment ---

    def _align(self, runtime: Runtime, source: ExperienceSource, periodic: PeriodicAlignment) -> AlignReport:
        """In the alignment thread."""
        total = source.total
        periodic.begin()
        self._health.aligns["attempted"] += 1
        report = runtime.align(
            self.params.align,
            self.params.exploration_fraction,
            lambda step, curve: self._on_step(runtime, step, curve),
        )
        source.aligned(total)
        self._health.aligns["accepted" if report.accepted else "refused"] += 1
        self._health.last_align = report.sentence()
        self._health.joints = {f"joint.{found.name}": found.sentence() for found in report.diagnosis}
        self._reports.publish(String(data=json.dumps(report.to_json())))
        self.get_logger().info(report.sentence())
        return report

    def _on_step(self, runtime: Runtime, step: int, curve: StepCurve) -> None:
        if runtime.closed:
            raise AlignmentStopped("the node was cleaned up meanwhile")
        for task, loss in curve.losses.items():
            self._curves[f"align/loss/{task}"].publish(Float64(data=loss))
        self._curves["align/e_token_norm"].publish(Float64(data=curve.e_token_norm))
        self._curves["align/grad_norm"].publish(Float64(data=curve.grad_norm))
        self._curves["align/lr"].publish(Float64(data=curve.learning_rate))

    async def _align_service(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answers when the alignment is done; a second one meanwhile is refused."""
        runtime, worker, source, periodic = self._runtime, self._alignment, self._source, self._periodic
        if runtime is None or worker is None or source is None or periodic is None:
            return _answer(response, False, f"the node is {self.state_label}: configure it first")
        if runtime.policy.align_problem:
            return _answer(response, False, runtime.policy.align_problem)
        done: Future = Future(executor=self.executor)

        def job() -> None:
            try:
                report, sentence = self._align(runtime, source, periodic), ""
                if report.reason is Reason.TOO_LITTLE_EXPERIENCE and not report.before_change:
                    sentence = f"; {left_out_sentence(source.refused)}"
                done.set_result((report.accepted, report.sentence() + sentence))
            except Exception as error:
                done.set_result((False, f"alignment failed, the token stays as it was: {error}"))
                raise

        if not worker.submit(job):
            return _answer(response, False, "an alignment is running; ask again when it is done")
        accepted, sentence = await done
        return _answer(response, accepted, sentence)

    def _reset_e_token(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        runtime, worker = self._runtime, self._alignment
        if runtime is None or worker is None:
            return _answer(response, False, f"the node is {self.state_label}: configure it first")
        if worker.busy:
            return _answer(response, False, "an alignment is running; ask again when it is done")
        try:
            runtime.reset_e_token()
        except (StoreError, ValueError) as error:
            return _answer(response, False, str(error))
        return _answer(response, True, f"the model's own token runs, as version {runtime.version_name}")

    def _clear_buffer(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._runtime is None or self._source is None:
            return _answer(response, False, f"the node is {self.state_label}: configure it first")
        count = len(self._runtime.buffer)
        try:
            self._source.forget()
        except OSError as error:
            return _answer(response, False, f"the buffer stays as it was, this cannot be saved: {error}")
        return _answer(response, True, f"{count} experiences forgotten")

    # --- health ---

    def _now_ns(self) -> int:
        """ROS time; 0 before the first /clock."""
        return int(self.get_clock().now().nanoseconds)

    def _report_health(self) -> None:
        runtime, worker, source, periodic = self._runtime, self._alignment, self._source, self._periodic
        now_ns = self._now_ns()
        clock_problem = self._clock_watch.problem(now_ns, time.monotonic())
        if source is not None and not source.needs_clock and self._commands is None:
            clock_problem = ""
        elif clock_problem:
            self.get_logger().warning(clock_problem, **THROTTLED)
        if runtime is None or worker is None or source is None or periodic is None:
            message = build_unconfigured(self._status_name, self.state_label, clock_problem)
        else:
            waiting = self._align_when_due(runtime, worker, source, periodic)
            commands = self._commands.status() if self._commands is not None else None
            status, deaf, name = status_of(source), self.sensors.problems, self._status_name
            message = build(
                name, runtime, self._health, status, commands, self.active, now_ns, clock_problem, deaf, waiting
            )
        for status in message.status:
            status.hardware_id = self.params.robot_id
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _align_when_due(
        self, runtime: Runtime, worker: Worker, source: ExperienceSource, periodic: PeriodicAlignment
    ) -> str:
        """Begin a periodic alignment, or say why it cannot begin; empty when it does, is off or runs."""
        params = self.params
        if not self.active or worker.busy or runtime.policy.align_problem:
            periodic.rest()
        elif periodic.due(params.align):
            worker.submit(lambda: self._align(runtime, source, periodic))
        elif why := periodic.why_waiting(params, runtime.policy.config.robot.period_ns):
            self.get_logger().warning(why, throttle_duration_sec=SAY_WAITING_EVERY_S, throttle_time_source_type=STEADY)
            return why
        return ""

    def _job_failed(self, error: Exception) -> None:
        if isinstance(error, AlignmentStopped):
            return
        self._health.problem = f"internal error: {error}"
        self.get_logger().error(f"a job failed, the node goes on: {error!r}", **THROTTLED)


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success, response.message = success, message
    return response
