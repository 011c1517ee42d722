"""Stop servers when the process they were started for has ended, however it ended.

`python -m ops.guard PID FOLDER` waits for the process, then stops and removes every instance below the folder.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ops.server_process import ServerProcess, identify
from ops.server_state import STATE_FILE, lock_of
from ops.services import stop_servers


def start_guard(pid: int, folder: Path) -> ServerProcess:
    """Start a guard for a process; it lives in a session of its own, so that Ctrl-C does not reach it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "ops.guard", str(pid), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    guard = identify(child)
    guard.release()
    return guard


def stop_all(folder: Path) -> None:
    """Stop and remove every instance whose state folder lies directly in `folder`, then the folder."""
    for note in sorted(folder.glob(f"*/{STATE_FILE}")):
        # Another one may be doing the same.
        with suppress(FileNotFoundError):
            stop_servers(note.parent, remove=True)
    shutil.rmtree(folder, ignore_errors=True)
    lock_of(folder).unlink(missing_ok=True)


def main() -> None:
    """Wait, then stop."""
    pid, folder = int(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        pass
    else:
        select.select([handle], [], [])
    stop_all(folder)


if __name__ == "__main__":
    main()
