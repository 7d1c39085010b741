"""What the README and the pages beside it show exists, parses, and is what CI runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from acd_edge.cli import COMMANDS, cli
from acd_edge.config import PRESETS, Preset
from tests.tree import ROOT, extras

README = ROOT / "README.md"
PAGES = [
    README,
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "acd_edge/builtin/MODEL_CARD.md",
    ROOT / "examples/README.md",
    ROOT / "benchmarks/README.md",
    ROOT / "CHANGELOG.md",
]
FIRST, SECOND = (
    "python3 -m venv .venv && .venv/bin/pip install '.[cpu]' && .venv/bin/acd-edge run examples --save heatmaps",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[all]' && .venv/bin/pytest",
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """(page, arguments) of every `acd-edge` call that a page shows."""
    for page in PAGES:
        units = re.findall(r"^ExecStart=(.+)$", "\n".join(blocks(page, "ini")), flags=re.MULTILINE)
        for line in [*"\n".join(blocks(page, "bash")).splitlines(), *units]:
            words = shlex.split(line.split(" > ")[0], comments=True)
            starts = [place for place, word in enumerate(words) if word.endswith("acd-edge")]
            for start in starts:
                stop = next((place for place in range(start, len(words)) if words[place] == "&&"), len(words))
                yield page.name, words[start + 1 : stop]


COMMANDS_SHOWN = list(shown_commands())


def test_two_commands_do_all_of_it() -> None:
    """The first two blocks, one line each, on the first screen, and the licence of the weights before them."""
    text = README.read_text()
    first, second, *_ = blocks(README, "bash")
    assert (first.strip(), second.strip()) == (FIRST, SECOND)
    assert text.index("LICENSE-WEIGHTS") < text.index(FIRST)
    assert "research use only" in text[: text.index(FIRST)]
    assert text[: text.index(SECOND)].count("\n") < 30


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert "install --quiet -e '.[all]'" in script
    assert '/bin/pytest" ' in script
    assert "README.md" in script  # the first command is taken from here and run in a clone of its own
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("page", "arguments"), COMMANDS_SHOWN, ids=[" ".join(shown[1][:3]) for shown in COMMANDS_SHOWN]
)
def test_shown_command_parses(page: str, arguments: list[str]) -> None:
    """Every flag that a page shows is a flag of the command, with a value of its kind."""
    context, rest = click.Context(cli), list(arguments)
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: no command {name}"
        command = found
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{page}: {command.name} has no {word}"
    command.make_context(command.name, rest, parent=context)


def test_every_command_is_shown_somewhere() -> None:
    assert {arguments[0] for _, arguments in COMMANDS_SHOWN} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            place = page.parent / file if file else page
            assert place.exists(), f"{page.name} -> {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", place.read_text(), flags=re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_extras_that_pages_name_exist() -> None:
    for page in PAGES:
        named = {extra for group in re.findall(r"\.\[([a-z,]+)\]", page.read_text()) for extra in group.split(",")}
        assert named <= extras(), page.name


def test_extras_table_is_complete() -> None:
    table = README.read_text().partition("## Extras")[2].partition("\n## ")[0]
    assert extras() == set(re.findall(r"`([a-z]+)`", table.split("\n\n")[1]))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_on_the_page_runs(page: Path) -> None:
    for block in blocks(page, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_presets_page_shows_every_setting() -> None:
    rows = {}
    for line in (ROOT / "docs/presets.md").read_text().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0].replace("`", "")] = dict(zip(("paper", "reference"), cells[2:], strict=True))
    wanted = {name for name in Preset.__dataclass_fields__ if name != "score_mix"}
    assert set(rows) == wanted | {"score_mix, industrial", "score_mix, medical"}
    for preset, rules in PRESETS.items():
        for name in wanted:
            assert rows[name][preset] == str(getattr(rules, name))
        for domain, mix in rules.score_mix.items():
            assert rows[f"score_mix, {domain}"][preset] == ", ".join(map(str, mix))
