"""The tracker on a short simulated episode at half the lab's resolution and a third of its rate."""

from __future__ import annotations

import numpy as np

from grape_reward.camera import Calibration
from grape_reward.tracking import KNOWN, ObjectStart, Tracked, Tracker
from grape_sim.demos import integrate
from grape_sim.expert import Expert
from grape_sim.world import World

WIDTH, HEIGHT = 320, 240


def test_what_the_expert_carries_is_followed_all_the_way() -> None:
    with World() as world:
        observation = world.reset("carrot_on_plate", "clean", 12)
        matrix = world.camera.intrinsics(WIDTH, HEIGHT)
        lens = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        camera = Calibration(WIDTH, HEIGHT, *map(float, lens), pose=world.camera.pose())
        expert, reference, start = Expert(world), observation.tcp, observation.keypoints
        view = world.view(WIDTH, HEIGHT)
        names = observation.keypoint_names
        tracker = Tracker(camera, [ObjectStart(n, start[i : i + 1], view.labels == i) for i, n in enumerate(names)], 0)
        tracked: list[Tracked] = []
        errors = []
        for _ in range(45):
            view = world.view(WIDTH, HEIGHT)
            stamp = round(observation.time * 1e9)
            tracked.append(tracker.update(view.color, view.depth, observation.tcp, observation.gripper_width, stamp))
            errors.append(np.linalg.norm(tracked[-1].keypoints - observation.keypoints, axis=1))
            if observation.status.success:
                break
            action = expert.action(observation)
            reference = integrate(reference, observation.tcp, action)
            observation = world.step(reference, float(action[6]))
        assert observation.status.success
        assert np.linalg.norm(observation.keypoints[0] - start[0]) > 0.1
    assert np.median(errors) < 0.005 and np.max(errors) < 0.02
    assert min(one.confidence.min() for one in tracked) > KNOWN
    assert tracked[-1].names == ("carrot", "plate")
