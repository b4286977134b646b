"""What differs between two SO-101s that their owners built, calibrated and put on a table."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from vla_align_ros.bench.so101.joints import NUM_JOINTS, FloatArray

ENCODER_NOISE_RAD = 0.0009  # standard deviation; the servo counts 4096 steps a turn


@dataclass(frozen=True, eq=False)
class Embodiment:
    """One arm with its cameras; without arguments the nominal one. Arrays are (3,), (2,) or, for each joint, (6,).

    front_position_m, front_rotation_rad (a rotation vector in the camera's own frame: x right, y up, z backwards),
    front_fov_rad: how far the camera that looks at the table is from its nominal pose and vertical field of view.
    wrist_position_m (in the gripper's frame), wrist_tilt_rad (about the camera's x and y), wrist_roll_rad (about its
    optical axis, applied last), wrist_fov_rad, wrist_mirrored: the same of the camera on the gripper, and whether its
    driver mirrors the picture, left for right.
    base_position_m, base_yaw_rad, base_tilt_rad (about the table's x and y): where the base stands.
    zero_rad, scale, sign: the calibration that a person made, of readings and of commands alike:
    `reading = sign * scale * true angle + zero`. Joint states show nothing of it.
    command_scale: true target over commanded one, about the true zero; readings keep their scale.
    stiffness: of the position servo, relative to nominal (a soft one sags). friction: of the joints, relative.
    payload_kg: mass that the gripper carries on top of its own. tool_m: spacer between wrist and gripper.
    jaw_m: fixed jaw's pad, towards the moving one.
    delay_s: from a command to the motor. backlash_rad: play between command and joint, full width.
    encoder_noise_rad: standard deviation of a reading.
    """

    front_position_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    front_rotation_rad: FloatArray = field(default_factory=lambda: np.zeros(3))
    front_fov_rad: float = 0.0
    wrist_position_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    wrist_tilt_rad: FloatArray = field(default_factory=lambda: np.zeros(2))
    wrist_roll_rad: float = 0.0
    wrist_fov_rad: float = 0.0
    wrist_mirrored: bool = False
    base_position_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    base_yaw_rad: float = 0.0
    base_tilt_rad: FloatArray = field(default_factory=lambda: np.zeros(2))
    zero_rad: FloatArray = field(default_factory=lambda: np.zeros(NUM_JOINTS))
    scale: FloatArray = field(default_factory=lambda: np.ones(NUM_JOINTS))
    sign: FloatArray = field(default_factory=lambda: np.ones(NUM_JOINTS))
    command_scale: FloatArray = field(default_factory=lambda: np.ones(NUM_JOINTS))
    stiffness: float = 1.0
    friction: float = 1.0
    payload_kg: float = 0.0
    tool_m: float = 0.0
    jaw_m: float = 0.0
    delay_s: float = 0.0
    backlash_rad: float = 0.0
    encoder_noise_rad: float = ENCODER_NOISE_RAD

    def reading(self, angle_rad: FloatArray) -> FloatArray:
        """What the encoders say, without noise, at true angles (..., 6)."""
        return self.sign * self.scale * angle_rad + self.zero_rad

    def angle_of_reading(self, reading_rad: FloatArray) -> FloatArray:
        """True angles (..., 6) of readings."""
        return (reading_rad - self.zero_rad) / (self.sign * self.scale)

    def target(self, command_rad: FloatArray) -> FloatArray:
        """True angles (..., 6) that the motors aim at when commanded `command_rad`."""
        return self.command_scale * self.angle_of_reading(command_rad)

    def command_for(self, target_rad: FloatArray) -> FloatArray:
        """The command (..., 6) that makes the motors aim at true angles."""
        return self.reading(target_rad / self.command_scale)

    def vector(self) -> FloatArray:
        """All parameters in a row, in order of the fields, (len(vector_names()),)."""
        return np.concatenate([np.atleast_1d(np.asarray(getattr(self, f.name), np.float64)) for f in fields(self)])


def vector_names() -> list[str]:
    """A name for each entry of `Embodiment.vector`: the field's, and its place in it."""
    nominal = Embodiment()
    named = [(f.name, np.size(getattr(nominal, f.name))) for f in fields(Embodiment)]
    return [name if size == 1 else f"{name}[{place}]" for name, size in named for place in range(size)]
