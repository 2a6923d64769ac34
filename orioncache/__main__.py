"""``python -m orioncache``."""

import sys

from orioncache.cli import main

sys.exit(main())
