"""What the demo is of, named here alone: the bench, the model that drives its robot, and which arm."""

from typing import Final

BENCH_NAME: Final = "so101"
TASKS: Final = "reach"
SHIFTS: Final = "wrist_camera wrist_roll wrist_mirror"
MODEL: Final = "so101"
EMBODIMENT_SEED: Final = 9
EPISODE_S: Final = 8.0  # after which the simulated robot is put back and asked for something else
HOME_S: Final = 0.4
SIMULATED: Final[dict[str, object]] = {  # parameters of the node sim_robot
    "bench": BENCH_NAME,
    "tasks": TASKS,
    "shifts": SHIFTS,
    "episode_s": EPISODE_S,
    "home_s": HOME_S,
    "embodiment_seed": EMBODIMENT_SEED,
}
