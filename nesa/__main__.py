"""``python -m nesa`` is the console script ``nesa``."""

import sys

from nesa.cli import main

sys.exit(main())
