"""`python -m macro_ingestor`: settings come from the environment (see `settings.py`)."""

from __future__ import annotations

import sys

from common.service import run
from macro_ingestor.service import SERVICE, main
from macro_ingestor.settings import MacroSettings

if __name__ == "__main__":
    sys.exit(run(SERVICE, MacroSettings, main))
