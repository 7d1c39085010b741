"""`acd-edge`, and `python -m acd_edge`."""

from typing import NoReturn

from acd_edge.stop import leave_at_once


def main() -> NoReturn:
    """Start the command line; Ctrl-C during its imports is one line too."""
    leave_at_once()
    from acd_edge.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
