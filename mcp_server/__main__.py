"""`python -m mcp_server`: the tools over stdio. stdout belongs to the protocol; everything else goes to stderr."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Generator, Sequence

from steer_tools import bundled_model
from steer_tools.cli.options import read_options
from steer_tools.engines.opening import DEFAULT_ENGINE, DTYPES, ENGINES
from steer_tools.errors import ArgumentError
from steer_tools.workspace import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the client closes stdin, and return the exit code."""
    options = _parse(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with _stdout_on_stderr():
        from mcp_server.server import build_server

    workspace = Workspace(options.workspace, is_confined=True)

    def load() -> None:
        from steer_tools.session.session import current_session

        session = current_session()
        session.workspace, session.allowed_models = workspace, tuple(options.model)
        session.default_engine = options.engine
        session.default_dtype, session.default_device_map = options.dtype, options.device_map
        session.default_template_options = options.template_option
        session.require_verified = options.require_verified or None
        session.load(options.model[0])

    build_server(load).run("stdio")
    return 0


@contextlib.contextmanager
def _stdout_on_stderr() -> Generator[None]:
    """Keep what imports print, in Python or below it, off the wire; from `run` on, the SDK sees to that itself."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="steer-tools serve", description="Serve the steering tools over MCP (stdio).")
    parser.add_argument(
        "--model",
        action="append",
        help="folder or hub name of the model to steer (default: bundled, the small one that ships with the package); "
        "given again, further models that load_model may load",
    )
    parser.add_argument("--workspace", help="the only folder that tools read and write (default: ./workspace)")
    parser.add_argument("--engine", default=DEFAULT_ENGINE, choices=ENGINES, help="what runs the model")
    parser.add_argument("--dtype", default="auto", choices=DTYPES)
    parser.add_argument("--device-map", help="for instance auto, cuda or cpu")
    parser.add_argument(
        "--template-option",
        action="append",
        metavar="NAME=VALUE",
        help="what the model's chat template is given in every chat; repeat it for several",
    )
    parser.add_argument(
        "--require-verified",
        action="store_true",
        help="apply only vectors whose certificate says that they work, as steering_experiment saves them, and only as "
        "it says (default: as $STEER_TOOLS_REQUIRE_VERIFIED says)",
    )
    options = parser.parse_args(arguments)
    try:
        options.template_option = read_options(options.template_option, "--template-option")
    except ArgumentError as error:
        parser.error(str(error))
    options.model = options.model or [bundled_model.NAME]
    return options


if __name__ == "__main__":
    sys.exit(main())
