"""``python -m compressor``."""

from __future__ import annotations

import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - pathlib would be imported from there
    # Python puts the working directory first, so a json.py in it would be run. Last, it still finds a checkout.
    sys.path.append(sys.path.pop(0))

from compressor.cli import main

sys.exit(main())
