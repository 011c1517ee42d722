"""`python -m influencer_ingestor`: settings come from the environment (see `settings.py`)."""

from __future__ import annotations

import sys

from common.service import run
from influencer_ingestor.events import SERVICE
from influencer_ingestor.service import main
from influencer_ingestor.settings import InfluencerSettings

if __name__ == "__main__":
    sys.exit(run(SERVICE, InfluencerSettings, main))
