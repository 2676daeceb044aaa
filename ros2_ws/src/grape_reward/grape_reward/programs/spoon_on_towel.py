"""Put the spoon on the towel: costs of grasping, moving and placing, as in Appendix E.2 of paper 002.

keypoints[0]: middle of the spoon. keypoints[1]: middle of the towel's upper side. keypoints[2:]: middles of
obstacles, which stand on the table (z = 0), so that their tops are twice as high. Metres, base frame, z up.
"""

import numpy as np

num_stages = 3


def stage1_target_constraint1(end_effector, keypoints):
    """Bring the end effector to the spoon."""
    spoon = keypoints[0]
    return np.sqrt(np.sum((end_effector - spoon) ** 2))


def stage1_path_constraint1(end_effector, keypoints):
    """Every moment costs one: over the stage it adds up to the seconds that grasping takes."""
    return 1.0


def stage1_collision_constraint1(end_effector, keypoints):
    """Keep the end effector 12 cm from the axis of every obstacle, or from its top."""
    nearest = [np.array([o[0], o[1], min(end_effector[2], 2.0 * o[2])]) for o in keypoints[2:]]
    return sum(max(0.0, 0.12 - np.sqrt(np.sum((end_effector - point) ** 2))) for point in nearest)


def stage1_collision_constraint2(end_effector, keypoints):
    """Come from above: the end effector never goes lower than the middle of the spoon."""
    spoon = keypoints[0]
    return max(0.0, spoon[2] - end_effector[2])


def stage1_grasp_constraint1(end_effector, keypoints):
    """Close the fingers around the middle of the spoon."""
    spoon = keypoints[0]
    return np.sqrt(np.sum((end_effector[:2] - spoon[:2]) ** 2))


def stage2_target_constraint1(end_effector, keypoints):
    """Bring the spoon over the towel, seen from above."""
    spoon, towel = keypoints[0], keypoints[1]
    return np.sqrt(np.sum((spoon[:2] - towel[:2]) ** 2))


def stage2_path_constraint1(end_effector, keypoints):
    """The seconds that moving takes."""
    return 1.0


def stage2_collision_constraint1(end_effector, keypoints):
    """Keep the end effector 12 cm from the axis of every obstacle, or from its top."""
    nearest = [np.array([o[0], o[1], min(end_effector[2], 2.0 * o[2])]) for o in keypoints[2:]]
    return sum(max(0.0, 0.12 - np.sqrt(np.sum((end_effector - point) ** 2))) for point in nearest)


def stage2_grasp_constraint1(end_effector, keypoints):
    """Keep the spoon between the fingers."""
    spoon = keypoints[0]
    return np.sqrt(np.sum((end_effector - spoon) ** 2))


def stage3_target_constraint1(end_effector, keypoints):
    """The spoon rests on the towel: its middle is 0.9 cm above it."""
    spoon, towel = keypoints[0], keypoints[1]
    rest = towel + np.array([0.0, 0.0, 0.009])
    return np.sqrt(np.sum((spoon - rest) ** 2))


def stage3_path_constraint1(end_effector, keypoints):
    """The seconds that placing takes."""
    return 1.0


def stage3_collision_constraint1(end_effector, keypoints):
    """Keep the end effector 12 cm from the axis of every obstacle, or from its top."""
    nearest = [np.array([o[0], o[1], min(end_effector[2], 2.0 * o[2])]) for o in keypoints[2:]]
    return sum(max(0.0, 0.12 - np.sqrt(np.sum((end_effector - point) ** 2))) for point in nearest)


def stage3_grasp_constraint1(end_effector, keypoints):
    """Let go, and leave: the end effector ends 4 cm or more from the spoon."""
    spoon = keypoints[0]
    return max(0.0, 0.04 - np.sqrt(np.sum((end_effector - spoon) ** 2)))
