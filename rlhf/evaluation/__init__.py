"""Honest numbers about policies on held-out prompts."""
