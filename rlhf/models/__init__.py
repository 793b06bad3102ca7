"""Base models, adapters, the roles that share one base, and token log-probabilities."""
