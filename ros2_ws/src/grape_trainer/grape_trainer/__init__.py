"""Preferences, TPO, adapter registry, the K-iteration loop."""
