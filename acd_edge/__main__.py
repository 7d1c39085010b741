"""`python -m acd_edge` is `acd-edge`."""

from acd_edge.cli import main

if __name__ == "__main__":
    main()
