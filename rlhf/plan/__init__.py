"""What a run needs: parameters, memory, disk, work and communication, computed before anything is loaded."""
