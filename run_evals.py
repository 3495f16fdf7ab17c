#!/usr/bin/env python
"""The command: see ``python run_evals.py --help``."""

import sys

from evals.cli import main

if __name__ == "__main__":
    sys.exit(main())
