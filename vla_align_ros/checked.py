"""What people write, checked against a pydantic dataclass: every problem in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from vla_align_ros.foreign import what_is_file

Kind = TypeVar("Kind")

# What PyYAML lets through for a tag or scalar that it cannot make a value of, and for a nesting that is too deep.
_YAML_LEAKS = (ValueError, KeyError, AttributeError, TypeError, RecursionError)


_NOTHING_CAME = ("missing", "unexpected_keyword_argument")  # pydantic's: the key says it all


def problems(error: ValidationError, whole: str = "") -> str:
    """All of them: key, what was expected, what came. whole: what is wrong where no key is."""
    return "; ".join(map(": ".join, (_problem(item, whole) for item in error.errors())))


def _problem(item: ErrorDetails, whole: str) -> Iterator[str]:
    """Where, and what. Our own sentences (`value_error`) about a mapping say what of it is wrong."""
    if where := ".".join(map(str, item["loc"])) or whole:
        yield where
    own = item["type"] == "value_error"
    said = item["msg"].removeprefix("Value error, ") if own else item["msg"]
    clear = item["type"] in _NOTHING_CAME or (own and isinstance(item["input"], Mapping))
    yield said if clear else f"{said} (got {item['input']!r:.80})"


def load_yaml(path: Path, kind: type[Kind], refusal: type[Exception]) -> Kind:
    """A YAML file as a `kind`. Raises `refusal` naming the file, and what it is where it is something else."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refusal(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, *_YAML_LEAKS) as error:
        raise refusal(f"{path}: cannot be read as YAML: {what_is_file(path) or error}") from None
    return validated(raw, kind, path, refusal)


def validated(raw: object, kind: type[Kind], origin: Path, refusal: type[Exception]) -> Kind:
    """What a file at `origin` says as a `kind`. Raises `refusal` as `load_yaml` does."""
    try:
        found: Kind = TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise refusal(f"{origin}: {what_is_file(origin) or problems(error)}") from None
    return found
