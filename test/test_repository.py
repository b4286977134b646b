"""What may not be in the repository: big files, words that mislead, paths of one machine."""

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_BYTES = 20_000_000
TEXT = {".py", ".md", ".yaml", ".toml", ".cfg", ".xml", ".txt", ".sh", ""}  # a tokenizer's JSON holds every word

# Written in pieces, so that this file does not find itself.
FORBIDDEN = {
    "layers that train while they are tested are not part of this project": r"\bT{3}\b|(?i:test[-_ ]time[-_ ]train)",
    "a path of one machine": "/" + r"(?:work|root)/|/home/\w" + "|" + r"\.\./" + "shared",
    "a package registry's host": r"pypi\.(?:org|python)|python" + r"hosted\.org|download\.py" + r"torch\.org",
}


def files() -> Iterator[Path]:
    """Every file that git would not ignore (the patterns in .gitignore are names of folders)."""
    lines = (REPOSITORY / ".gitignore").read_text().split()
    ignored = [".git", *(line.strip("/") for line in lines)]
    for folder, names, file_names in os.walk(REPOSITORY):
        names[:] = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]
        yield from (Path(folder, name) for name in file_names if name != ".git")  # that of a worktree is a file


def test_no_file_is_over_20_mb():
    too_big = {str(path.relative_to(REPOSITORY)): path.stat().st_size for path in files()}
    assert not {name: size for name, size in too_big.items() if size > MAX_BYTES}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_file_has(what):
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in files():
        if path.suffix in TEXT:
            lines = path.read_text(errors="replace").splitlines()
            found += [
                f"{path.relative_to(REPOSITORY)}:{n}: {line}" for n, line in enumerate(lines, 1) if pattern.search(line)
            ]
    assert not found, f"{what}:\n" + "\n".join(found)
