"""``python -m compressor``."""

from __future__ import annotations

import sys

from compressor.cli.command import main

sys.exit(main())
