"""`python -m ohlcv_ingestor`: settings come from the environment (see `settings.py`)."""

from __future__ import annotations

import sys

from common.service import run
from ohlcv_ingestor.ingestor import SERVICE
from ohlcv_ingestor.service import main
from ohlcv_ingestor.settings import OhlcvSettings

if __name__ == "__main__":
    sys.exit(run(SERVICE, OhlcvSettings, main))
