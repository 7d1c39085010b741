"""`acd-edge`, and `python -m acd_edge`. Nothing is imported up here: Ctrl-C is one line from the first moment."""


def main() -> None:
    """Start the command line; it leaves by itself."""
    try:
        from acd_edge.stop import leave_at_once

        leave_at_once()
    except KeyboardInterrupt:  # in the imports of that module, which needs the standard library only
        import sys

        sys.stderr.write("Interrupted\n")
        sys.exit(130)
    from acd_edge.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
