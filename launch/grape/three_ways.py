"""The same episodes scored three ways: by the reward node as they happen, by it from a replayed bag, and offline."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grape.domains import reserve
from grape.ros import ScoreListener
from grape.serve import replay_command
from grape.up import Stack, StackConfig
from grape_episode.reader import read_episode
from grape_reward.result import Score
from grape_reward.score import score_episode
from grape_trainer.rig import Job, Rollout
from grape_trainer.ros import RosRig

ANSWER_SECONDS = 60.0


class ReplayError(Exception):
    """A bag that could not be replayed; the text is what the replay said."""


@dataclass(frozen=True)
class ThreeScores:
    """One episode's scores as canonical JSON."""

    episode_id: str
    bag: Path
    live: str
    replayed: str
    offline: str

    @property
    def hashes(self) -> tuple[str, str, str]:
        """sha256 hex of each: live, replayed, offline."""
        live, replayed, offline = (
            hashlib.sha256(told.encode()).hexdigest() for told in (self.live, self.replayed, self.offline)
        )
        return live, replayed, offline

    @property
    def differences(self) -> list[str]:
        """Names of the fields in which they differ."""
        told = [json.loads(score) for score in (self.live, self.replayed, self.offline)]
        return sorted(name for name in told[0] if any(one.get(name) != told[0][name] for one in told))

    @property
    def equal(self) -> bool:
        """All three are the same, bit for bit, and whole."""
        return len(set(self.hashes)) == 1 and not Score.from_json(self.live).incomplete


def score_three_ways(
    model: Path, jobs: Sequence[Job], folder: Path, done: Callable[[str], None] = lambda said: None
) -> list[ThreeScores]:
    """Record the jobs in the simulator, in lock-step, and score each three ways. ``folder``: new, for bags and logs.

    Raises StackError, RigError, NoAnswerError, ReplayError."""
    lives = _live(model, jobs, folder, done)
    found = []
    with reserve() as domain:
        reward = StackConfig(
            domain=domain,
            log_dir=folder / "replay",
            lock_step=True,
            model=model,
            registry=None,
            episodes_root=folder / "unused",
            nodes=("reward",),
            extra_params={"reward": {"replay": True}},
        )
        with Stack(reward), ScoreListener(domain) as listener:
            for bag, live in lives:
                episode = read_episode(bag, images=False)
                _replay(bag, domain)
                replayed = listener.score(episode.identity.episode_id, ANSWER_SECONDS)
                offline = score_episode(episode).to_json()
                found.append(ThreeScores(episode.identity.episode_id, bag, live, replayed, offline))
                done(f"replayed {bag.name}")
    return found


def _live(model: Path, jobs: Sequence[Job], folder: Path, done: Callable[[str], None]) -> list[tuple[Path, str]]:
    """The bags of the jobs and what the node said of each as it happened."""
    rollouts: list[Rollout] = []

    def told(rollout: Rollout) -> None:
        rollouts.append(rollout)
        done(f"recorded {rollout.episode_id}")

    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=folder / "live",
            lock_step=True,
            model=model,
            registry=None,
            episodes_root=folder / "episodes",
        )
        with Stack(config), ScoreListener(domain) as listener, RosRig(domain) as rig:
            _until(listener.connected)
            rig.collect(jobs, told)
            return [(Path(r.bag), listener.score(r.episode_id, ANSWER_SECONDS)) for r in rollouts]


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + ANSWER_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def _replay(bag: Path, domain: int) -> None:
    command = replay_command(bag, 0.0, rescore=True, discovery_seconds=0.1)
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise ReplayError(f"{bag}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
