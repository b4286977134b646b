"""Where models and token stores are: a name or a path -> a folder; and which robot a store belongs to."""

from __future__ import annotations

import sys
from pathlib import Path

from vla_align_ros.foreign import what_is_file
from vla_align_ros.policy.config import MODEL_FILE, ModelConfigError

PACKAGE = "vla_align_ros"
ROOT_ROBOT = "vla_policy"


def shared_folders(name: str) -> list[Path]:
    """Where the checkout's folder `name` may be: in it, and in the share folder of an installed package."""
    root = Path(__file__).resolve().parents[1]
    places = [root / name, Path(sys.prefix) / "share" / PACKAGE / name]
    # colcon puts the package at <prefix>/lib/pythonX.Y/site-packages and its data at <prefix>/share
    places += [parent / "share" / PACKAGE / name for parent in root.parents[:3]]
    return [place for place in places if place.is_dir()]


def zoo_folders() -> list[Path]:
    """Folders that may hold models."""
    return shared_folders("models")


def find_model(name: str) -> Path:
    """A model's folder from its path or its name in the zoo. Raises ModelConfigError that lists what there is."""
    if not name:
        raise ModelConfigError("no model is set: give the folder of one, or a name from the zoo, as in model:=so101")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        said = "; ".join(filter(None, [what_is_file(path), f"give the folder that holds {MODEL_FILE}"]))
        raise ModelConfigError(f"{path} is a file, not a model folder: {said}")
    for folder in zoo_folders():
        if (folder / name / MODEL_FILE).is_file():
            return folder / name
    known = sorted({item.parent.name for folder in zoo_folders() for item in folder.glob(f"*/{MODEL_FILE}")})
    raise ModelConfigError(
        f"{name}: no such model folder, and none of that name in the zoo (it has: {', '.join(known) or 'nothing'})"
    )


def robot_of(policy_node: str) -> str:
    """The name of a robot, from the fully qualified name of its policy: `/arm1/vla_policy` -> `arm1.vla_policy`.

    A ROS name has no dot, so that no two nodes share one. It is one folder's name, as `robot_id` is.
    """
    return policy_node.strip("/").replace("/", ".")


def default_store(model_name: str, robot: str) -> Path:
    """Where a robot's token versions for a model live when nothing else is said."""
    return Path.home() / ".ros" / "vla_align" / robot / model_name


def store_folder(store: str, model_name: str, robot_id: str) -> Path:
    """The token store: the folder `store` where one is named, else the default of this model and robot. An empty
    `robot_id` is the policy that runs in the root namespace.
    """
    return Path(store).expanduser() if store else default_store(model_name, robot_id or ROOT_ROBOT)
