"""The project's files as its tests see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setuptools.config.pyprojecttoml import read_configuration  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "acd_edge": "acd_edge",
    "acd_edge.export": "export",
    "acd_edge.runtime": "runtime",
    "acd_edge.calib": "calib",
}


def modules() -> dict[str, Path]:
    """Every module of the four folders by its dotted name, without the convenience links."""
    found: dict[str, Path] = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder)
            if (ROOT / folder / inner.parts[0]).is_symlink():
                continue
            parts = inner.with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def packages() -> list[str]:
    """Every folder with an `__init__.py`, by its dotted name."""
    return sorted(name for name, path in modules().items() if path.name == "__init__.py")


def settings() -> dict[str, Any]:
    """What `pyproject.toml` says, as setuptools reads it."""
    found: dict[str, Any] = read_configuration(ROOT / "pyproject.toml", expand=False)
    return found


def extras() -> set[str]:
    """Names of the extras."""
    return set(settings()["project"]["optional-dependencies"])
