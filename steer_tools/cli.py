"""The command line `steer-tools`. It must not know mathematics."""

import argparse
import sys
from collections.abc import Sequence

from steer_tools import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="steer-tools", description="Steer a language model at inference time.")
    parser.add_argument("--version", action="version", version=f"steer-tools {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", add_help=False, help="run the MCP server over stdio; `serve --help` lists its options")
    _, rest = parser.parse_known_args(arguments if arguments is not None else sys.argv[1:])
    from mcp_server.__main__ import main as serve  # noqa: PLC0415  # The server's imports take longer than `--help` may.

    return serve(rest)


if __name__ == "__main__":
    sys.exit(main())
