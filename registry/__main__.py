"""`python -m registry`: settings come from the environment (see `settings.py`)."""

from __future__ import annotations

from registry.command import main

if __name__ == "__main__":
    main()
