"""The plain numbers say what MuJoCo says."""

import mujoco
import numpy as np
import pytest
from so101_tables import drawn

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import HOME_RAD, JOINT_MAX_RAD, JOINT_MIN_RAD, NUM_JOINTS
from vla_align_ros.bench.so101.kinematics import sags_rad, solve_pose, tips_m
from vla_align_ros.bench.so101.scene import shifted_model
from vla_align_ros.bench.so101.skeleton import skeletons

ARMS = [Embodiment(), *drawn(8)]


def test_tip_and_sag_are_mujocos():
    arms = skeletons(ARMS)
    angle = HOME_RAD + np.random.default_rng(0).uniform(-0.6, 0.6, (len(ARMS), NUM_JOINTS))
    tips, sags = tips_m(arms, angle), sags_rad(arms, angle)
    for row, arm in enumerate(ARMS):
        model = shifted_model(arm)
        data = mujoco.MjData(model)
        data.qpos[:NUM_JOINTS] = angle[row]
        mujoco.mj_forward(model, data)
        gripper = data.body("gripper")
        np.testing.assert_allclose(tips[row], gripper.xpos + gripper.xmat.reshape(3, 3) @ arms.tip_m[row], atol=1e-9)
        np.testing.assert_allclose(sags[row] * arms.servo_nm_per_rad[row], data.qfrc_bias[:NUM_JOINTS], atol=1e-6)


@pytest.mark.parametrize("height_m", [0.015, 0.08])
def test_the_tip_gets_to_where_it_should_and_the_jaw_points_down(height_m):
    arms = skeletons([Embodiment()])
    model = shifted_model(Embodiment())
    data = mujoco.MjData(model)
    for radius in (0.15, 0.19, 0.23):
        for azimuth in (-0.8, 0.0, 0.8):
            target = np.array([0.0388 + radius * np.cos(azimuth), radius * np.sin(azimuth), height_m])
            angle = HOME_RAD.copy()
            solve_pose(arms, 0, angle, target, 0.3, 40)
            np.testing.assert_allclose(tips_m(arms, angle[None])[0], target, atol=5e-4)
            assert (angle >= JOINT_MIN_RAD).all()
            assert (angle <= JOINT_MAX_RAD).all()
            data.qpos[:NUM_JOINTS] = angle
            mujoco.mj_kinematics(model, data)
            axes = data.body("gripper").xmat.reshape(3, 3)
            assert axes[2, 2] > 0.93
            assert np.arctan2(axes[1, 0], axes[0, 0]) == pytest.approx(0.3, abs=0.1)
