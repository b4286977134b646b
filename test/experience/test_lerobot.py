"""A LeRobotDataset gives the experiences that its frames hold, and says what is wrong with one that does not fit."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lerobot_files import CAMERAS, NAMES, brightness, write_dataset
from pydantic import TypeAdapter

from vla_align_ros.experience.lerobot import LeRobotDataset
from vla_align_ros.experience.lerobot_files import DatasetError
from vla_align_ros.robot.description import RobotDescription

ROBOTS = Path(__file__).parents[2] / "config" / "robots"
HORIZON, STRIDE = 4, 2


def robot(change: Callable[[dict[str, Any]], None] = lambda raw: None) -> RobotDescription:
    raw = yaml.safe_load((ROBOTS / "so101.yaml").read_text())
    change(raw)
    description: RobotDescription = TypeAdapter(RobotDescription).validate_python(raw)
    return description


def opened(folder: Path, described: RobotDescription | None = None, **options: Any) -> LeRobotDataset:
    return LeRobotDataset(folder, described or robot(), CAMERAS, 32, **options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("lerobot") / "so101_pick")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "own")


def test_an_experience_is_what_its_frames_hold(shared: Path) -> None:
    made = list(opened(shared).experiences(HORIZON, STRIDE))
    assert [item.episode for item in made] == [0] * 5 + [1] * 8
    assert all(a.observation.stamp_ns < b.observation.stamp_ns for a, b in itertools.pairwise(made))
    item = made[7]  # the third of episode 1, which begins at row 14: rows 18 to 22
    degrees = (18 + 100.0 * np.arange(5)) * 0.1
    assert np.allclose(item.observation.state[:5], np.deg2rad(degrees), atol=1e-5)
    gripper = (np.arange(18, 22) + 500.0) * 0.1 + 1.0
    assert np.allclose(item.commands[:, 5], -0.175 + 1.92 * gripper / 100, atol=1e-5)
    assert item.observation.prompt == "push the blue cube"
    for camera, darker in (("front", 0), ("wrist", 10)):
        for seen, row in ((item.observation, 18), (item.next_observation, 22)):
            assert seen.images[camera].shape == (32, 32, 3)
            assert abs(int(seen.images[camera].mean()) - (brightness(row) - darker)) <= 2


def test_absolute_targets_become_changes_from_the_observations_state(shared: Path) -> None:
    def delta(raw: dict[str, Any]) -> None:
        for vector in ("state", "action"):
            raw[vector][1] |= {"scale": -1.0, "offset": 0.3}
        raw["action"][1]["kind"] = "delta_position"
        raw["state"].reverse()

    absolute = next(opened(shared).experiences(HORIZON, STRIDE))
    item = next(opened(shared, robot(delta)).experiences(HORIZON, STRIDE))
    assert np.allclose(item.commands[:, 1], absolute.observation.state[1] - absolute.commands[:, 1], atol=1e-6)
    assert np.array_equal(item.commands[:, 0], absolute.commands[:, 0])


@pytest.mark.parametrize("firsts", [[0], [3, 4, 31], [0, 25, 26, 55], [*range(0, 56, 9)]])
def test_frames_that_are_sought_are_those_that_reading_on_gives(tmp_path: Path, firsts: list[int]) -> None:
    dataset = opened(write_dataset(tmp_path / "long", (14, 60)))
    episode = dataset.episodes[1]
    all_of_it = list(dataset.experiences_at(episode, range(episode.length - HORIZON), HORIZON))
    for first, item in zip(firsts, dataset.experiences_at(episode, firsts, HORIZON), strict=True):
        other = all_of_it[first]
        assert item.observation.stamp_ns == other.observation.stamp_ns
        assert np.array_equal(item.commands, other.commands)
        for seen, frame in ((item.observation, first), (item.next_observation, first + HORIZON)):
            assert abs(int(seen.images["front"].mean()) - brightness(14 + frame)) <= 2


def test_a_column_says_which_robot_an_episode_is_of(shared: Path) -> None:
    assert list(opened(shared).by_robot) == ["so101_pick"]
    by_column = opened(shared, robot_column="unit")
    assert list(by_column.by_robot) == ["so101_pick/arm0", "so101_pick/arm1"]
    assert {item.episode for item in by_column.experiences(HORIZON, STRIDE, "so101_pick/arm1")} == {1}


def test_the_datasets_own_order_and_further_numbers_do_not_matter(own: Path) -> None:
    expected = next(opened(own).experiences(HORIZON, STRIDE))
    path = own / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    order = [3, 1, 2, 0, 5, 4]
    for name in ("observation.state", "action"):
        rows = [[row[index] for index in order] + [9.0] for row in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(rows))
    pq.write_table(table, path)
    change_info(own, lambda info: rename(info, [*(NAMES[index] for index in order), "track.vel"]))
    item = next(opened(own).experiences(HORIZON, STRIDE))
    assert np.allclose(item.commands, expected.commands)
    assert np.allclose(item.observation.state, expected.observation.state)


def change_info(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def rename(info: dict[str, Any], names: list[str] | None, length: int | None = None) -> None:
    for feature in ("observation.state", "action"):
        info["features"][feature] |= {"names": names, "shape": [length or len(names or [])]}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_rows(folder: Path, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    path = next(folder.rglob("data/**/*.parquet"))
    table = pq.read_table(path)
    changed = pa.array(change(table[name].to_pylist()))
    pq.write_table(table.set_column(table.column_names.index(name), name, changed), path)


def drop_column(path: Path, name: str) -> None:
    pq.write_table(pq.read_table(path).drop_columns([name]), path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no dataset": (lambda f: (f / "meta" / "info.json").unlink(), "no meta/info.json"),
    "an older format": (lambda f: change_info(f, lambda i: i.update(codebase_version="v2.1")), "v3 is read"),
    "another rate": (lambda f: change_info(f, lambda i: i.update(fps=15)), "recorded at 15 fps"),
    "another length": (lambda f: change_info(f, lambda i: rename(i, None, 7)), "7 numbers without names"),
    "another robot": (
        lambda f: change_info(f, lambda i: rename(i, [f"joint{n}" for n in range(6)])),
        "another robot's",
    ),
    "no such camera": (
        lambda f: change_info(f, lambda i: i["features"].pop(CAMERAS["wrist"])),
        "the dataset has images",
    ),
    "a camera that only info.json calls so": (
        lambda f: drop_column(next(f.rglob("meta/episodes/**/*.parquet")), f"videos/{CAMERAS['wrist']}/chunk_index"),
        r"meta/episodes does not say \['videos/.*/chunk_index'\] of every episode",
    ),
    "no place of videos": (lambda f: change_info(f, lambda i: i.pop("video_path")), "no video_path, where"),
    "a missing video": (lambda f: next(f.rglob("videos/*wrist/**/*.mp4")).unlink(), "the video is missing"),
    "torn data": (lambda f: truncate(next(f.rglob("data/**/*.parquet"))), "is it whole"),
    "rows of another length": (
        lambda f: change_rows(f, "action", lambda rows: [row[:5] for row in rows]),
        "says 6 in each",
    ),
    "rows of other episodes": (
        lambda f: change_rows(f, "episode_index", lambda rows: rows[::-1]),
        "where meta/episodes says that 14 are",
    ),
    "torn episodes": (lambda f: truncate(next(f.rglob("meta/episodes/**/*.parquet"))), "is it whole"),
    "no tasks": (lambda f: (f / "meta" / "tasks.parquet").unlink(), "no task text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_dataset_is_refused_with_what_is_wrong(own: Path, fault: str) -> None:
    break_it, sentence = FAULTS[fault]
    break_it(own)
    with pytest.raises(DatasetError, match=sentence):
        list(opened(own).experiences(HORIZON, STRIDE))


@pytest.mark.parametrize("index_first", [False, True], ids=["index at the end", "index at the beginning"])
def test_a_torn_video_is_noticed_before_it_is_read(own: Path, index_first: bool) -> None:
    video = next(own.rglob("videos/*wrist/**/*.mp4"))
    if index_first:
        packed_anew(video)
        opened(own)
    truncate(video)
    with pytest.raises(DatasetError, match=r"file-000\.mp4: .*whole"):
        opened(own)


def packed_anew(path: Path) -> None:
    """The same frames, with the index before them, as for a player that begins while it loads."""
    before = path.with_name("before.mp4")
    path.rename(before)
    with av.open(str(before)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    before.unlink()


def test_a_given_prompt_stands_in_for_missing_tasks(own: Path) -> None:
    (own / "meta" / "tasks.parquet").unlink()
    assert next(opened(own, prompt="tidy up").experiences(HORIZON, STRIDE)).observation.prompt == "tidy up"
