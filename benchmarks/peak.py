"""Memory of a program; needs the standard library alone, so that both sides can import it."""

import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return the largest resident memory of this program; `getrusage` would also count the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
