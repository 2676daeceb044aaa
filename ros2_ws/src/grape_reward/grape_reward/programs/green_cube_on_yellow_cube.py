"""Stack the green cube on the yellow cube: costs of grasping, moving and placing, as in Appendix E.2 of paper 002.

keypoints[0]: middle of the green cube. keypoints[1]: middle of the yellow cube's top. keypoints[2:]: middles of
obstacles, which stand on the table (z = 0), so that their tops are twice as high. Metres, base frame, z up.
"""

import numpy as np

num_stages = 3


def stage1_target_constraint1(end_effector, keypoints):
    """Bring the end effector to the green cube."""
    green = keypoints[0]
    return np.sqrt(np.sum((end_effector - green) ** 2))


def stage1_path_constraint1(end_effector, keypoints):
    """Every moment costs one: over the stage it adds up to the seconds that grasping takes."""
    return 1.0


def stage1_collision_constraint1(end_effector, keypoints):
    """Keep the end effector 12 cm from the axis of every obstacle, or from its top."""
    nearest = [np.array([o[0], o[1], min(end_effector[2], 2.0 * o[2])]) for o in keypoints[2:]]
    return sum(max(0.0, 0.12 - np.sqrt(np.sum((end_effector - point) ** 2))) for point in nearest)


def stage1_collision_constraint2(end_effector, keypoints):
    """Come from above: the end effector never goes lower than the middle of the green cube."""
    green = keypoints[0]
    return max(0.0, green[2] - end_effector[2])


def stage1_grasp_constraint1(end_effector, keypoints):
    """Close the fingers around the middle of the green cube."""
    green = keypoints[0]
    return np.sqrt(np.sum((end_effector[:2] - green[:2]) ** 2))


def stage2_target_constraint1(end_effector, keypoints):
    """Bring the green cube over the yellow cube, seen from above."""
    green, yellow = keypoints[0], keypoints[1]
    return np.sqrt(np.sum((green[:2] - yellow[:2]) ** 2))


def stage2_path_constraint1(end_effector, keypoints):
    """The seconds that moving takes."""
    return 1.0


def stage2_collision_constraint1(end_effector, keypoints):
    """Keep the end effector 12 cm from the axis of every obstacle, or from its top."""
    nearest = [np.array([o[0], o[1], min(end_effector[2], 2.0 * o[2])]) for o in keypoints[2:]]
    return sum(max(0.0, 0.12 - np.sqrt(np.sum((end_effector - point) ** 2))) for point in nearest)


def stage2_collision_constraint2(end_effector, keypoints):
    """Do not push the yellow cube: how deep the green one's middle is beside it, below its own place on top."""
    green, yellow = keypoints[0], keypoints[1]
    near = max(0.0, 0.055 - np.sqrt(np.sum((green[:2] - yellow[:2]) ** 2)))
    low = max(0.0, yellow[2] + 0.015 - green[2])
    return min(near, low)


def stage2_grasp_constraint1(end_effector, keypoints):
    """Keep the green cube between the fingers."""
    green = keypoints[0]
    return np.sqrt(np.sum((end_effector - green) ** 2))


def stage3_target_constraint1(end_effector, keypoints):
    """The green cube rests on the yellow one: its middle is half its side, 2.3 cm, above the top."""
    green, yellow = keypoints[0], keypoints[1]
    rest = yellow + np.array([0.0, 0.0, 0.023])
    return np.sqrt(np.sum((green - rest) ** 2))


def stage3_path_constraint1(end_effector, keypoints):
    """The seconds that placing takes."""
    return 1.0


def stage3_collision_constraint1(end_effector, keypoints):
    """Keep the end effector 12 cm from the axis of every obstacle, or from its top."""
    nearest = [np.array([o[0], o[1], min(end_effector[2], 2.0 * o[2])]) for o in keypoints[2:]]
    return sum(max(0.0, 0.12 - np.sqrt(np.sum((end_effector - point) ** 2))) for point in nearest)


def stage3_collision_constraint2(end_effector, keypoints):
    """Do not push the yellow cube, nor let the green one slide off."""
    green, yellow = keypoints[0], keypoints[1]
    near = max(0.0, 0.055 - np.sqrt(np.sum((green[:2] - yellow[:2]) ** 2)))
    low = max(0.0, yellow[2] + 0.015 - green[2])
    return min(near, low)


def stage3_grasp_constraint1(end_effector, keypoints):
    """Let go, and leave: the end effector ends 4 cm or more from the green cube."""
    green = keypoints[0]
    return max(0.0, 0.04 - np.sqrt(np.sum((end_effector - green) ** 2)))
