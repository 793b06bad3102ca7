"""Reward models: losses, the scalar head on the shared base, training, calibration."""
