"""`python -m ovengine` is the command `ovengine`."""

import sys

from ovengine.cli import main

sys.exit(main())
