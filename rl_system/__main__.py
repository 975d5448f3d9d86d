"""`python -m rl_system` is `rl-system`."""

import sys

from rl_system.cli import main

if __name__ == "__main__":
    sys.exit(main())
