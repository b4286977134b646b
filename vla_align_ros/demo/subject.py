"""What the demo is of, named here alone: the bench, the model that drives its robot, and which arm."""

from typing import Final

BENCH_NAME: Final = "reach2"
TASKS: Final = ""  # all of the bench's
SHIFTS: Final = ""
MODEL: Final = "tiny"
EMBODIMENT_SEED: Final = 9
EPISODE_S: Final = 4.8  # after which the simulated robot is asked for something else
