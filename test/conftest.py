"""The environment that every test runs in, set before rclpy, torch or transformers are imported anywhere."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(Path(__file__).parent))  # `robots`, `clocked` and `provenances` are for every folder

_ENVIRONMENT = {
    # ROS stays on this machine, and test runs that go on side by side do not hear each other.
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(REPOSITORY / "config" / "fastdds_profile.xml"),
    "AMENT_PREFIX_PATH": sys.prefix,
    "ROS_LOG_DIR": str(Path(tempfile.gettempdir()) / "vla_align_ros_test_log"),
    # One thread: the same sums in the same order, and no fight over few cores.
    "OMP_NUM_THREADS": "1",
    # No test fetches a model.
    "HF_HUB_OFFLINE": "1",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# `make test-fast` tries fewer examples: pytest --hypothesis-profile fast
for _profile, _examples in (("default", 50), ("fast", 10)):
    settings.register_profile(
        _profile, deadline=None, max_examples=_examples, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    """`colcon test` takes the quick tests, unless it is told which: --pytest-args " -m" "slow or not slow"."""
    if "COLCON" in os.environ and not config.option.markexpr:
        config.option.markexpr = "not slow and not ros"
