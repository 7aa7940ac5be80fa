"""The command line `steer-tools`: arguments → tools → text or JSON. It must not know mathematics."""

from steer_tools.cli.app import main as main
