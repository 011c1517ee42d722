"""`python -m metric_ingestor`: settings come from the environment (see `settings.py`)."""

from __future__ import annotations

import sys

from common.service import run
from metric_ingestor.service import SERVICE, main
from metric_ingestor.settings import MetricSettings

if __name__ == "__main__":
    sys.exit(run(SERVICE, MetricSettings, main))
