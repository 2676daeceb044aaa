"""The scripted expert's other motions: to press a button down, to knock a bottle over. Pure functions of the present.

Both go with closed fingers, whose tips are then ``finger_tip_drop(0)`` beyond the TCP.
"""

from __future__ import annotations

import math

import numpy as np

from grape_episode.geometry import Array
from grape_sim.robot import finger_tip_drop

ABOVE = 0.05
"""Height of the fingertips above a button, metres, at which to travel."""
PUSH_DEPTH = 0.014
"""How far below the cap's top the fingertips are sent, metres: more than its travel."""
RUN_UP = 0.09
"""Distance from a bottle's middle, metres, from which it is pushed."""
PUSH_SHARE = 0.30
"""Height of the push above a bottle's middle, as a share of its half height."""
_ALIGNED = 0.012


def press(tcp: Array, cap: Array, rest: float, half: float) -> Array:
    """The way of the TCP (3,) metres: over the cap, then down on it. ``tcp``, ``cap``: positions (3,), base frame;
    ``rest``: height of the cap's middle where nobody presses it; ``half``: half its height."""
    top = rest + half
    error = cap[:2] - tcp[:2]
    aside = math.hypot(*error)
    drop = finger_tip_drop(0.0)
    goal = top - PUSH_DEPTH if aside < _ALIGNED else top + ABOVE * min(aside / 0.05, 1.0)
    rise = goal + drop - tcp[2]
    # far below where it should travel: first up
    freedom = min(max(1.0 - (rise - 0.03) / 0.04, 0.0), 1.0)
    return np.array([error[0] * freedom, error[1] * freedom, rise])


def topple(tcp: Array, bottle: Array, half: float, radius: float) -> Array:
    """The way of the TCP (3,) metres: down beside the standing bottle, on the side of the table's middle, then through
    it. ``bottle``: its middle (3,), base frame; ``half``, ``radius``: of its height and its belly, metres."""
    outwards = 1.0 if bottle[1] >= 0.0 else -1.0
    height = bottle[2] + PUSH_SHARE * half + finger_tip_drop(0.0)
    along = outwards * (tcp[1] - bottle[1])  # negative before the bottle
    across = bottle[0] - tcp[0]
    low = tcp[2] < height + 0.02
    if low and abs(across) < 2 * radius and along < 0.0:
        return np.array([across, outwards * 0.08, height - tcp[2]])
    start = np.array([bottle[0], bottle[1] - outwards * RUN_UP, height])
    error = start - tcp
    if math.hypot(error[0], error[1]) > _ALIGNED:
        # over its top until it is beside it
        error[2] = max(bottle[2] + half + 0.03 + finger_tip_drop(0.0) - tcp[2], error[2])
    return np.asarray(error)
