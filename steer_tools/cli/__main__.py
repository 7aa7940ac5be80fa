"""`python -m steer_tools.cli` is `steer-tools`."""

import sys

from steer_tools.cli.app import main

sys.exit(main())
