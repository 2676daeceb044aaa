"""Stages, costs, success, GCPG: reward node and offline scoring."""
