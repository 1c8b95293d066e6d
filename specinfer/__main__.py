"""``python -m specinfer``: the command line."""

from __future__ import annotations

import sys

from specinfer.scheduler.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
