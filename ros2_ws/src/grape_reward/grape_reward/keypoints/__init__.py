"""Keypoints proposed from one RGB-D frame: masks, features, clusters, points in the base frame."""
