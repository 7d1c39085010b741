"""The command group: what it imports, and how it shows what went wrong."""

from __future__ import annotations

import errno
import subprocess
import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

import acd_edge
from acd_edge.cli import COMMANDS, LazyGroup, cli
from acd_edge.cli.once import OnceCommand, OnceGroup
from acd_edge.errors import BundleError, MissingExtra, SourceError, UnknownProduct, UsageError


def invoke_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
    """Run a command whose only act is to raise."""

    @click.command()
    def command() -> None:
        click.echo("done so far")
        raise error

    module = ModuleType("acd_edge_test_command")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("acd_edge.cli.COMMANDS", {"fail": (f"{module.__name__}:command", "Fails.")})
    return CliRunner().invoke(cli, [*options, "fail"])


def test_help_lists_every_command_with_its_line() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    for name, (_, help_line) in COMMANDS.items():
        assert f"{name} {help_line}" in words


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"acd-edge, version {acd_edge.__version__}\n"


@pytest.mark.parametrize("flags", [["--help"], ["--version"], []], ids=["help", "version", "nothing"])
def test_help_imports_nothing_heavy(flags: list[str]) -> None:
    """`--help` is instant because nothing is imported: numpy alone takes longer than the whole page."""
    code = (
        "import sys; from acd_edge.cli import cli\n"
        f"try: cli({flags!r})\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'PIL', 'cv2', 'onnxruntime', 'torch', 'tokenizers') if name in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert_has_help(command, [name])


def assert_has_help(command: click.Command, path: list[str]) -> None:
    assert command.help, f"{path} needs a docstring: it is the first paragraph of its help page"
    assert isinstance(command, (OnceCommand, OnceGroup)), f"{path} would take the last of two values and say nothing"
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: cli {' '.join(path)}")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help"
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            assert_has_help(inner, [*path, name])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "a.png", "--backend", "openvino", "--backend", "onnxruntime"], "--backend"),
        (["run", "a.png", "--threads=1", "--threads=1"], "--threads"),  # which of two scripts meant it?
        (["calibrate", "b", "--good", "g", "-o", "x", "--output", "y"], "-o or --output"),
        (["bench", "--json", "--json", "a.json"], "--json"),  # its value may be left out
        (["prompts", "add", "b", "nut", "--from", "x", "--from", "y"], "--from"),  # of a group
    ],
    ids=" ".join,
)
def test_one_value_is_given_once(words: list[str], named: str) -> None:
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {named} takes one value and was given twice; leave one of them away\n"


def test_what_may_come_twice_still_does() -> None:
    result = CliRunner().invoke(cli, ["run", "--source", "no-a.png", "--source", "no-b.png", "--force", "--force"])
    assert result.exit_code == 1
    assert ["no-a.png" in result.stderr, "no-b.png" in result.stderr] == [True, True]
    helped = CliRunner().invoke(cli, ["run", "--backend", "auto", "--backend", "auto", "--help"])
    assert (helped.exit_code, helped.stderr) == (0, "")


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "acd_edge", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: acd-edge ")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (BundleError("model.onnx was altered"), 1),
        (MissingExtra("this step needs torch"), 1),  # an ImportError too
        (UnknownProduct("no product 'x'"), 1),  # a LookupError: its message must not come out as a repr
        (SourceError("no such picture"), 1),  # an OSError too
        (UsageError("--save-map needs --save"), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_our_errors_are_one_line(error: Exception, exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke_raising(error, monkeypatch)
    assert (result.exit_code, result.stderr) == (exit_code, f"Error: {error.args[0]}\n")
    assert result.stdout == "done so far\n"


def test_a_message_of_two_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke_raising(BundleError("one\ntwo"), monkeypatch).stderr == "Error: one two\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the memory is exhausted (no details)"),
        (MemoryError("Unable to allocate 9 GiB"), "the memory is exhausted (Unable to allocate 9 GiB)"),
        (OSError(errno.ENOSPC, "No space left on device", "maps/1.npy"), "the disk is full while writing maps/1.npy"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free"),
    ],
)
def test_a_full_machine_is_one_line(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke_raising(error, monkeypatch)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {words}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "broken disk"), AssertionError("ours")])
def test_our_own_mistakes_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke_raising(error, monkeypatch).exception is error


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke_raising(KeyboardInterrupt(), monkeypatch)
    assert (result.exit_code, result.stderr) == (130, "Interrupted\n")


def test_closed_pipe_is_quiet() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "acd_edge", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before it has printed, as `head` does
        assert process.stderr.read() == b""


def test_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["rum"])
    assert result.exit_code == 2
    assert "No such command 'rum'" in result.stderr


def test_an_absent_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    command = click.command("train")(absent)
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    refused = CliRunner().invoke(cli, ["train"])
    assert refused.exit_code == 1
    assert "pip install 'acd-edge[train]'" in refused.stderr
    assert "Traceback" not in refused.output
