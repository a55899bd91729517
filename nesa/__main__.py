"""``python -m nesa`` is the console script ``nesa``."""

import sys

from nesa.cli.commands import main

sys.exit(main())
