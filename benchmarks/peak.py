"""Memory of a program; needs nothing that one side lacks, so that both can import it."""

import sys
from pathlib import Path


def peak_bytes(device: str) -> int:
    """Return the most memory that this program has had on a device, `cpu` or `cuda`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    # `getrusage` would also count the program that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
