"""Lets a benchmark run from a checkout on a machine where the packages are not installed, and without ROS."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

for _name in ("grape_episode", "grape_policy", "grape_reward", "grape_robot", "grape_sim", "grape_trainer"):
    sys.path.insert(0, str(ROOT / "ros2_ws" / "src" / _name))
sys.path.insert(0, str(ROOT / "launch"))
