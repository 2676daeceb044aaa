"""Worlds that speak the robot's topics: a PyBullet tabletop."""
