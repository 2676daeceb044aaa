"""Recorded episodes in other people's formats."""
