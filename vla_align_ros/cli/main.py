"""The console script `vla-align`: one command a file, one line here to register it.

A command's file imports torch, transformers and rclpy inside its function, so that `vla-align --help` answers at once
and works without ROS.
"""

from __future__ import annotations

import typer
from safetensors import SafetensorError
from typer.core import TyperGroup

from vla_align_ros.cli import align, bench, checkpoints, convert, demo, doctor, inspect, limits, params, train


class Commands(TyperGroup):
    """What the disk refuses ends any command with a sentence, where the command has none of its own."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read the output has gone: typer's own
        except (OSError, SafetensorError) as error:
            text = str(error)
            if isinstance(error, OSError) and error.filename:
                text = f"{error.filename}: {error.strerror}"
            typer.echo(f"vla-align {ctx.invoked_subcommand}: {text}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    help="PI0 on a robot that it aligns itself to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command("demo")(demo.demo)
app.command("align")(align.align)
app.command("inspect")(inspect.inspect)
app.command("train")(train.train)
app.command("convert")(convert.convert)
app.command("limits")(limits.limits)
app.add_typer(checkpoints.app, name="checkpoints")
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("params")(params.parameters)

if __name__ == "__main__":
    app()
