"""How tests start orioncache."""

import os
import sys

# Words in front of it, a line each: the sanitized run of the FUSE layer (tests/fuse/test_sanitized.py) needs
# an environment that is the cache's alone.
_BEFORE = os.environ.get("ORION_TEST_BEFORE", "")

IS_SANITIZED = bool(_BEFORE)
COMMAND = [*_BEFORE.splitlines(), sys.executable, "-m", "orioncache"]
