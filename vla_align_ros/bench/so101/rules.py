"""How each task is done, as a rule from what is seen to where the jaw should go next.

A rule remembers nothing: whatever happened before, it does what is right from here. So it can say what to do in any
state, one that a policy came to by mistake too, and a policy that sees the state can learn it.

Places are (3,) in m on the table; `seen` and `want` are rows of numbers, so that all of it compiles.
"""

from __future__ import annotations

import numpy as np

from vla_align_ros.bench.so101.jit import jit
from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.scene import CUBE_HALF_M
from vla_align_ros.bench.so101.tasks import REACH_HEIGHT_M

# seen: jaw's place, heading and opening; cube's place and heading; pad's place (x, y); azimuth of the cube
JAW, YAW, GRIP, CUBE, CUBE_YAW, PAD, AZIMUTH, SEEN_SIZE = 0, 3, 4, 5, 8, 9, 11, 12
# want: place, heading, opening (rad), speed (m/s)
WANT_YAW, WANT_GRIP, WANT_SPEED, WANT_SIZE = 3, 4, 5, 6

SPEED_M_S, PUSH_SPEED_M_S = 0.15, 0.09
OPEN_RAD, SHUT_RAD, REACH_GRIP_RAD = 1.0, -0.05, 0.6
AT_CUBE_RAD = 0.32  # where the moving jaw meets a cube that the fixed one touches
HELD_RAD = AT_CUBE_RAD + 0.09
HOVER_M, CARRY_M, LOW_M = 0.075, 0.085, 0.05
ASIDE_M = 0.006  # the fixed jaw's clearance beside a cube, on the way down
PUSH_GRIP_RAD = 0.16  # both jaws push, 17 mm apart
PUSH_ASIDE_M = 0.0065  # of the middle between them from the grasp's middle
PUSH_HEIGHT_M, BEHIND_M, CONTACT_M = 0.014, 0.05, 0.026


@jit
def held(seen: FloatArray) -> bool:
    """Whether the cube is in the closed jaw."""
    x, y, z = seen[CUBE] - seen[JAW], seen[CUBE + 1] - seen[JAW + 1], seen[CUBE + 2] - seen[JAW + 2]
    return bool(seen[GRIP] < HELD_RAD and x * x + y * y + z * z < 0.018**2)


@jit
def between(seen: FloatArray) -> bool:
    """Whether the cube stands between the jaws."""
    aside = np.hypot(seen[CUBE] - seen[JAW], seen[CUBE + 1] - seen[JAW + 1])
    return bool(aside < 0.014 and seen[JAW + 2] < seen[CUBE + 2] + 0.012)


@jit
def nearest_turn(angle: float, wanted: float, period: float) -> float:
    """`angle`, or what looks the same `period` further, nearest to `wanted`."""
    return float(angle + np.round((wanted - angle) / period) * period)


@jit
def _go(want: FloatArray, x: float, y: float, z: float) -> None:
    want[0], want[1], want[2] = x, y, z


@jit
def _over_then_down(seen: FloatArray, want: FloatArray, x: float, y: float, height: float, near: float) -> None:
    """Up first where the way to (x, y) is long, over it at hover height, down when straight above."""
    away = np.hypot(seen[JAW] - x, seen[JAW + 1] - y)
    if away < near and abs(seen[YAW] - want[WANT_YAW]) < 0.12:
        _go(want, x, y, height)
    elif seen[JAW + 2] < HOVER_M - 0.012 and away > 0.02:
        _go(want, seen[JAW], seen[JAW + 1], HOVER_M)
    else:
        _go(want, x, y, HOVER_M)


@jit
def _leave(seen: FloatArray, want: FloatArray, opened: bool) -> None:
    """Straight up and stay there, once the jaw has let go."""
    want[WANT_YAW] = seen[YAW]
    _go(want, seen[JAW], seen[JAW + 1], max(HOVER_M, seen[JAW + 2]) if opened else seen[JAW + 2])


@jit
def reach(seen: FloatArray, want: FloatArray) -> None:
    """Hold the jaw over the cube."""
    want[WANT_YAW], want[WANT_GRIP], want[WANT_SPEED] = seen[AZIMUTH], REACH_GRIP_RAD, SPEED_M_S
    _go(want, seen[CUBE], seen[CUBE + 1], seen[CUBE + 2] + REACH_HEIGHT_M)


@jit
def pick(seen: FloatArray, want: FloatArray) -> None:
    """Take the cube, carry it over, put it down, let go."""
    want[WANT_GRIP], want[WANT_SPEED] = OPEN_RAD, SPEED_M_S
    to_x, to_y = seen[PAD] - seen[CUBE], seen[PAD + 1] - seen[CUBE + 1]
    far, height = np.hypot(to_x, to_y), seen[CUBE + 2]
    if held(seen):
        want[WANT_YAW], want[WANT_GRIP] = seen[YAW], SHUT_RAD
        if far < 0.006 or (far < 0.012 and height < 0.03):
            _go(want, seen[JAW] + to_x, seen[JAW + 1] + to_y, seen[JAW + 2] - (height - CUBE_HALF_M))
            if height < CUBE_HALF_M + 0.003:
                want[WANT_GRIP] = OPEN_RAD
        elif far > 0.03 and height < LOW_M:
            _go(want, seen[JAW], seen[JAW + 1], CARRY_M)
        else:
            _go(want, seen[JAW] + to_x, seen[JAW + 1] + to_y, CARRY_M)
    elif far < 0.022 and height < CUBE_HALF_M + 0.005:
        _leave(seen, want, seen[GRIP] > OPEN_RAD - 0.35)
    else:
        want[WANT_YAW] = nearest_turn(seen[CUBE_YAW], seen[AZIMUTH], np.pi / 2)
        if between(seen) and abs(seen[YAW] - want[WANT_YAW]) < 0.25:
            want[WANT_GRIP] = SHUT_RAD
            _go(want, seen[JAW], seen[JAW + 1], CUBE_HALF_M)
        else:
            x = seen[CUBE] - ASIDE_M * np.cos(want[WANT_YAW])
            y = seen[CUBE + 1] - ASIDE_M * np.sin(want[WANT_YAW])
            _over_then_down(seen, want, x, y, CUBE_HALF_M, 0.008)


@jit
def push(seen: FloatArray, want: FloatArray) -> None:
    """Get behind the cube with both jaws, push it straight to the pad, go up."""
    want[WANT_GRIP], want[WANT_SPEED] = PUSH_GRIP_RAD, SPEED_M_S
    to_x, to_y = seen[PAD] - seen[CUBE], seen[PAD + 1] - seen[CUBE + 1]
    far = np.hypot(to_x, to_y)
    u_x, u_y = (to_x / far, to_y / far) if far > 1e-6 else (1.0, 0.0)
    want[WANT_YAW] = nearest_turn(np.arctan2(u_y, u_x) + np.pi / 2, seen[AZIMUTH], np.pi)
    aside_x, aside_y = PUSH_ASIDE_M * np.cos(want[WANT_YAW]), PUSH_ASIDE_M * np.sin(want[WANT_YAW])
    from_x, from_y = seen[JAW] - aside_x - seen[CUBE], seen[JAW + 1] - aside_y - seen[CUBE + 1]
    along, across = from_x * u_x + from_y * u_y, from_y * u_x - from_x * u_y
    in_lane = seen[JAW + 2] < 0.03 and -0.07 < along < -0.015 and abs(across) < 0.012
    in_lane = in_lane and abs(seen[YAW] - want[WANT_YAW]) < 0.25
    if far < 0.008 or (far < 0.018 and not in_lane):
        _leave(seen, want, True)
    elif in_lane:
        want[WANT_SPEED] = PUSH_SPEED_M_S
        x, y = seen[PAD] - CONTACT_M * u_x + aside_x, seen[PAD + 1] - CONTACT_M * u_y + aside_y
        _go(want, x, y, PUSH_HEIGHT_M)
    else:
        x, y = seen[CUBE] - BEHIND_M * u_x + aside_x, seen[CUBE + 1] - BEHIND_M * u_y + aside_y
        _over_then_down(seen, want, x, y, PUSH_HEIGHT_M, 0.007)
