"""The arm, a table, three cubes, three pads and two cameras as a MuJoCo model, and an embodiment written into it."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import mujoco
import numpy as np

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import NUM_JOINTS, FloatArray

CUBES = {"red": (0.85, 0.12, 0.12), "green": (0.10, 0.70, 0.20), "blue": (0.12, 0.25, 0.90)}
PADS = {"yellow": (0.95, 0.85, 0.10), "purple": (0.60, 0.20, 0.80), "cyan": (0.10, 0.80, 0.85)}
CUBE_HALF_M, PAD_HALF_M, PAD_THICK_M = 0.015, 0.035, 0.001
CUBE_KG = 0.02
PAN_AXIS_M = 0.0388353  # in front of the base's origin
CAMERAS = ("front", "wrist")
HIDDEN_GROUP = 3  # geoms that collide and are not seen

FRONT_EYE_M, FRONT_TARGET_M, FRONT_FOV_RAD = np.array([0.6, -0.32, 0.42]), np.array([0.2, 0.0, 0.03]), np.deg2rad(42)
WRIST_EYE_M, WRIST_TARGET_M = np.array([0.015, -0.07, -0.01]), np.array([0.015, 0.0, -0.11])  # in the gripper's frame
WRIST_FOV_RAD = np.deg2rad(75)
PAYLOAD_RADIUS_M = 0.012
_NO_PAYLOAD_KG = 1e-6
_ARM = Path(__file__).with_name("arm.xml")


def rotation(vector_rad: FloatArray) -> FloatArray:
    """A rotation vector (3,) -> a unit quaternion (4,), w first."""
    angle, quat = float(np.linalg.norm(vector_rad)), np.zeros(4)
    mujoco.mju_axisAngle2Quat(quat, vector_rad / angle if angle else np.array([1.0, 0.0, 0.0]), angle)
    return quat


def product(first: FloatArray, second: FloatArray) -> FloatArray:
    """Of two quaternions (4,): `second` in the frame of `first`."""
    quat = np.zeros(4)
    mujoco.mju_mulQuat(quat, first, second)
    return quat


def looking_at(eye_m: FloatArray, target_m: FloatArray, right: FloatArray) -> FloatArray:
    """Orientation (4,) of a camera: it looks along its -z, `right` lies in the picture's right half."""
    back = (eye_m - target_m) / np.linalg.norm(eye_m - target_m)
    across = right - (right @ back) * back
    across /= np.linalg.norm(across)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.stack([across, np.cross(back, across), back], axis=1).ravel())
    return quat


_FRONT_QUAT = looking_at(FRONT_EYE_M, FRONT_TARGET_M, np.cross([0.0, 0.0, 1.0], FRONT_EYE_M - FRONT_TARGET_M))
_WRIST_QUAT = looking_at(WRIST_EYE_M, WRIST_TARGET_M, np.array([1.0, 0.0, 0.0]))


@cache
def nominal_model() -> mujoco.MjModel:
    """The nominal arm before its table, compiled once. Copy it before changing anything."""
    spec = mujoco.MjSpec.from_file(str(_ARM))
    world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
    touches_all, unseen = {"contype": 2, "conaffinity": 3}, {"contype": 0, "conaffinity": 0}
    world.add_geom(
        name="table", type=box, size=[0.45, 0.45, 0.02], pos=[0.2, 0.0, -0.02], rgba=[0.62, 0.55, 0.47, 1.0],
        friction=[0.8, 0.02, 0.001], **touches_all,
    )  # fmt: skip
    for name, colour in PADS.items():
        body = world.add_body(name=f"pad_{name}", mocap=True)
        size = [PAD_HALF_M, PAD_HALF_M, PAD_THICK_M / 2]
        body.add_geom(name=f"pad_{name}", type=box, size=size, rgba=[*colour, 1.0], **unseen)
    for name, colour in CUBES.items():
        body = world.add_body(name=f"cube_{name}", pos=[0.2, 0.0, CUBE_HALF_M])
        body.add_freejoint(name=f"cube_{name}")
        body.add_geom(
            name=f"cube_{name}", type=box, size=[CUBE_HALF_M] * 3, rgba=[*colour, 1.0], mass=CUBE_KG,
            friction=[1.0, 0.02, 0.001], condim=4, **touches_all,
        )  # fmt: skip
    world.add_camera(name="front", pos=FRONT_EYE_M, quat=_FRONT_QUAT, fovy=np.rad2deg(FRONT_FOV_RAD))
    spec.camera("wrist").pos, spec.camera("wrist").quat = WRIST_EYE_M, _WRIST_QUAT
    spec.camera("wrist").fovy = np.rad2deg(WRIST_FOV_RAD)
    return spec.compile()


def shifted_model(embodiment: Embodiment) -> mujoco.MjModel:
    """A model of its own for one arm. Calibration, delay, backlash and noise are no part of it: `worlds` does those."""
    model = copy.copy(nominal_model())
    write_embodiment(model, embodiment)
    return model


def write_embodiment(model: mujoco.MjModel, embodiment: Embodiment) -> None:
    """Make a copy of the nominal model, whatever was written before, this arm's."""
    nominal, e = nominal_model(), embodiment
    front, wrist = model.camera("front").id, model.camera("wrist").id
    model.cam_pos[front] = FRONT_EYE_M + e.front_position_m
    model.cam_quat[front] = product(_FRONT_QUAT, rotation(e.front_rotation_rad))
    model.cam_fovy[front] = np.rad2deg(FRONT_FOV_RAD + e.front_fov_rad)
    tilted = product(_WRIST_QUAT, rotation(np.append(e.wrist_tilt_rad, 0.0)))
    model.cam_pos[wrist] = WRIST_EYE_M + e.wrist_position_m
    model.cam_quat[wrist] = product(tilted, rotation(np.array([0.0, 0.0, e.wrist_roll_rad])))
    model.cam_fovy[wrist] = np.rad2deg(WRIST_FOV_RAD + e.wrist_fov_rad)

    base, gripper, payload = (model.body(name).id for name in ("base", "gripper", "payload"))
    model.body_pos[base] = nominal.body_pos[base] + e.base_position_m
    yawed = rotation(np.array([0.0, 0.0, e.base_yaw_rad]))
    model.body_quat[base] = product(rotation(np.append(e.base_tilt_rad, 0.0)), yawed)
    model.body_pos[gripper] = nominal.body_pos[gripper] + [0.0, -e.tool_m, 0.0]
    pad = model.geom("fixed_jaw_pad").id
    model.geom_pos[pad] = nominal.geom_pos[pad] + [e.jaw_m, 0.0, 0.0]
    model.body_mass[payload] = _NO_PAYLOAD_KG + e.payload_kg
    model.body_inertia[payload] = 0.4 * model.body_mass[payload] * PAYLOAD_RADIUS_M**2  # of a ball

    servos = slice(0, NUM_JOINTS)
    model.actuator_gainprm[servos, 0] = nominal.actuator_gainprm[servos, 0] * e.stiffness
    model.actuator_biasprm[servos, 1] = nominal.actuator_biasprm[servos, 1] * e.stiffness
    model.dof_frictionloss[servos] = nominal.dof_frictionloss[servos] * e.friction
    mujoco.mj_setConst(model, mujoco.MjData(model))  # masses and inertias that follow from these
