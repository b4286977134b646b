"""`vla-align params`: lists what the code has, writes only into a source checkout."""

import json

import pytest
from typer.testing import CliRunner

import vla_align_ros
from vla_align_ros.cli.main import app
from vla_align_ros.cli.params import generated_files
from vla_align_ros.params import NODES, fields_of

shell = CliRunner()


def test_json_lists_every_parameter_of_every_node():
    result = shell.invoke(app, ["params", "--json"])
    assert result.exit_code == 0
    listed = {node: [entry["name"] for entry in entries] for node, entries in json.loads(result.stdout).items()}
    assert listed == {node: [descriptor.name for descriptor in fields_of(group)] for node, group in NODES.items()}


def test_table_shows_one_node_when_it_is_named(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = shell.invoke(app, ["params", "sim_robot"])
    assert result.exit_code == 0
    assert "embodiment_seed" in result.stdout
    assert "lambda_perc" not in result.stdout


def test_unknown_node_is_a_usage_error_that_names_the_nodes():
    result = shell.invoke(app, ["params", "vla_polcy"])
    assert result.exit_code == 2
    assert "vla_policy" in result.output


def test_write_makes_all_files_in_a_checkout(tmp_path, monkeypatch):
    package = tmp_path / "vla_align_ros" / "__init__.py"
    monkeypatch.setattr(vla_align_ros, "__file__", str(package))
    for folder in ("config", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "package.xml").write_text("<package/>")
    assert shell.invoke(app, ["params", "--write"]).exit_code == 0
    assert {name: (tmp_path / name).read_text() for name in generated_files()} == generated_files()


def test_write_outside_a_checkout_says_so_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(vla_align_ros, "__file__", str(tmp_path / "vla_align_ros" / "__init__.py"))
    result = shell.invoke(app, ["params", "--write"])
    assert result.exit_code == 1
    assert "source checkout" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["params"], ["doctor"]])
def test_help_has_an_example(command):
    result = shell.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert not command or f"Example: vla-align {command[0]}" in result.stdout
