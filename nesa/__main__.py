"""Run the command line, as the console script ``nesa`` does."""

import sys

from nesa.cli.commands import main

sys.exit(main())
