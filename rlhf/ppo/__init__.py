"""Proximal policy optimisation on adapters: pure maths, rollouts, the loop, checkpoints."""
