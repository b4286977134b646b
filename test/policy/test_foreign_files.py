"""What another project's JSON files say wrongly is refused with a sentence that names file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from foreign_folders import DATA, MAKERS, Made, openpis
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_align_ros.observation.normalise import NormStatsError
from vla_align_ros.policy.config import ModelConfigError
from vla_align_ros.policy.load import read_folder
from vla_align_ros.policy.prepare import make_robot

LEROBOTS = ("config", "policy_preprocessor", "policy_postprocessor")
OPENPIS_CONFIG = {"paligemma_variant": "gemma_2b", "action_dim": 8, "action_horizon": 6}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def places(raw: Any, keys: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The keys that lead to each value in what a JSON file says, itself included."""
    inner = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [keys, *(place for key, value in inner for place in places(value, (*keys, key)))]


def changed(raw: Any, keys: tuple[str | int, ...], value: object) -> Any:
    """With another value there, or without it where that is MISSING."""
    if not keys:
        return {} if value is MISSING else value
    target = raw
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    if value is MISSING:
        del target[keys[-1]]
    return raw


WRITTEN = {  # every value of these
    ("openpi", "config.json"): OPENPIS_CONFIG,
    ("openpi", "norm_stats.json"): read(DATA / "norm_stats.json"),
    **{("lerobot", f"{name}.json"): read(DATA / "lerobot" / "pi0" / f"{name}.json") for name in LEROBOTS},
}
PLACES = [(*file, keys) for file, raw in WRITTEN.items() for keys in places(raw)]
MISSING = object()
OF_ANY_TYPE = st.sampled_from([MISSING, None, True, 0, -1, 10**400, 0.5, "", "../x\0", [], [None], [[]], {}, {"": 0}])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    made = {source: make(tmp_path_factory.mktemp(source) / "folder") for source, make in MAKERS.items()}
    (made["openpi"][0] / "config.json").write_text(json.dumps(OPENPIS_CONFIG))
    return made


@settings(max_examples=400, deadline=None)
@given(place=st.sampled_from(PLACES), value=OF_ANY_TYPE)
def test_a_config_that_is_wrong_anywhere_is_refused_by_its_name(
    sound: dict[str, Made], place: tuple[str, str, tuple[str | int, ...]], value: object
) -> None:
    source, name, keys = place
    folder, said = sound[source]
    path = next(folder.glob(f"**/{name}"))
    before = path.read_text()
    try:
        path.write_text(json.dumps(changed(json.loads(before), keys, value)))
        read = read_folder(folder, said)
        make_robot(read.config, read.stats, read.stats_path, read.tokenizer)
    except (ModelConfigError, NormStatsError) as error:
        if str(folder) not in str(error):
            raise
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("source", "name", "keys", "value", "expected"),
    [
        ("lerobot", "config.json", ("chunk_size",), "six", "config.json: chunk_size: .*integer .got 'six'"),
        ("lerobot", "config.json", ("input_features",), MISSING, "config.json: input_features: Field required"),
        (
            "lerobot",
            "policy_preprocessor.json",
            ("steps", 6, "config", "norm_map"),
            [],
            "steps.6.config.norm_map: .*dict",
        ),
        ("lerobot", "policy_preprocessor.json", ("steps",), None, "policy_preprocessor.json: steps: .*list .got None"),
        ("openpi", "config.json", ("action_horizon",), [50], "config.json: action_horizon: .*integer"),
        ("openpi", "norm_stats.json", ("norm_stats", "state"), [], "norm_stats.json: norm_stats.state: "),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(
    source: str, name: str, keys: tuple[str | int, ...], value: object, expected: str, tmp_path: Path
) -> None:
    folder, said = MAKERS[source](tmp_path / "folder")
    if (source, name) == ("openpi", "config.json"):
        (folder / name).write_text(json.dumps(OPENPIS_CONFIG))
    path = next(folder.glob(f"**/{name}"))
    path.write_text(json.dumps(changed(read(path), keys, value)))
    with pytest.raises((ModelConfigError, NormStatsError), match=expected):
        read_folder(folder, said)


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"3", b"[]", b"{}", b'{"vlm": 3}', b"[" * 100_000])
def test_a_config_json_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    made = openpis(tmp_path / "folder")
    (made[0] / "config.json").write_bytes(content)
    with pytest.raises(ModelConfigError, match=r"config\.json: "):
        read_folder(*made)
