"""The documents: short enough to be read, and what they name exists: links, commands, options, parameters, keys."""

import importlib.util
import json
import re
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from pydantic import TypeAdapter

from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.cli.main import app
from vla_align_ros.descriptors import fields_of
from vla_align_ros.params import NODES
from vla_align_ros.robot.description import (
    ActionField,
    CommandGroup,
    Joint,
    JointStateTopic,
    RobotDescription,
    StateField,
)

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_WORDS, MAX_README_WORDS = 4500, 300
GENERATED = {"parameters.md", "reasons.md"}
PAGES = sorted(REPOSITORY.glob("docs/*.md"))
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted(REPOSITORY.glob("models/*/README.md")),
    *PAGES,
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
ids = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, not run."""
    path = REPOSITORY / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def words(path: Path) -> int:
    """All of them, in tables, too; a bar between two cells is none."""
    return sum(any(letter.isalnum() for letter in word) for word in path.read_text().split())


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path: Path) -> list[str]:
    """Lines of code, continued ones joined, without comments."""
    code = "\n".join(part.strip("`") for part in CODE.findall(path.read_text()))
    return [line.split("  #")[0].strip() for line in code.replace("\\\n", " ").splitlines()]


def starting(path: Path, start: str) -> list[list[str]]:
    """The words after `start`, of each command that has it."""
    return [line.split(start, 1)[1].split() for line in commands(path) if re.search(rf"(^|\s){re.escape(start)}", line)]


def test_the_documents_stay_short():
    pages = [path for path in PAGES if path.name not in GENERATED]
    found = {str(path.relative_to(REPOSITORY)): words(path) for path in [REPOSITORY / "README.md", *pages]}
    assert sum(found.values()) <= MAX_WORDS, found
    assert found["README.md"] <= MAX_README_WORDS


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_link_leads_somewhere_and_none_to_the_history(path):
    for link in LINK.findall(path.read_text()):
        if re.match(r"\w+://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert (REPOSITORY / "docs" / "history") not in target.parents, link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_command_exists_with_its_options_and_parameters(path):
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for rest in starting(path, "make "):
        assert rest[0] in targets, rest
    for rest in starting(path, "vla-align "):
        check_shell_command(rest)
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for rest in starting(path, "ros2 run vla_align_ros "):
        assert rest[0] in scripts
        check_parameters(rest[0], rest)
    for rest in starting(path, "ros2 launch vla_align_ros "):
        text = (REPOSITORY / "launch" / rest[0]).read_text()
        for argument in re.findall(r"(\w+):=", " ".join(rest)):
            assert f'"{argument}"' in text, argument
    for rest in starting(path, "ros2 service call "):
        node, _, service = rest[0].strip("/").partition("/")
        source = (REPOSITORY / "vla_align_ros" / "ros" / f"{node}.py").read_text()
        assert f'"~/{service}"' in source or f'("{service}", ' in source, rest
    for rest in starting(path, "ros2 param set "):
        check_parameters(rest[0].strip("/"), [f"{rest[1]}:={rest[2]}"])
    for script in re.findall(r"benchmarks/\w+\.py", path.read_text()):
        assert (REPOSITORY / script).is_file(), script


def check_shell_command(rest: list[str]) -> None:
    """`vla-align COMMAND ...`, or the command's name alone; `...` stands for any."""
    command = typer.main.get_command(app)
    while rest and hasattr(command, "commands") and rest[0] != "...":
        assert rest[0] in command.commands, rest
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, rest


def check_parameters(node: str, rest: list[str]) -> None:
    names = set(re.findall(r"(?<![\w/:])(\w+):=", " ".join(rest))) - {"__ns", "use_sim_time"}
    assert names <= {descriptor.name for descriptor in fields_of(NODES[node])}, rest


def test_the_arm_of_the_robot_page_is_a_description_and_every_key_is_explained():
    text = (REPOSITORY / "docs" / "robot.md").read_text()
    (example,) = re.findall(r"```yaml\n(robot:.*?)```", text, re.DOTALL)
    robot = TypeAdapter(RobotDescription).validate_python(yaml.safe_load(example)["robot"])
    assert len(robot.action) == 4
    kinds = (RobotDescription, Joint, StateField, ActionField, CommandGroup, JointStateTopic)
    keys = {field.name for kind in kinds for field in fields(kind)}
    assert not {key for key in keys if not re.search(rf"\b{key}\b", text)}


def test_every_reason_for_a_refusal_has_an_advice():
    text = (
        (REPOSITORY / "docs" / "alignment.md").read_text().partition("## When it is refused")[2].partition("\n## ")[0]
    )
    advised = {
        code
        for line in text.splitlines()
        if line.startswith("|")
        for code in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert advised == {reason.value for reason in Reason} - {"kept"}


def test_the_tables_are_those_of_the_results_folder(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    module = benchmark("results_table")
    for page in module.PAGES:
        assert page.read_text() == module.written(page), "run: python benchmarks/results_table.py"


def test_every_result_has_what_its_headline_reads(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    run_all = benchmark("run_all")
    for made in run_all.BENCHMARKS:
        path = run_all.RESULTS / f"{made.name}.json"
        assert not path.exists() or made.headline(json.loads(path.read_text())["numbers"]), made.name
