"""``python -m compressor``."""

from __future__ import annotations

import sys

from compressor.cli import main

sys.exit(main())
