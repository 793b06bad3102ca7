"""Measurements that print ratios of alternating runs."""
