"""Prints the scores that a reward node publishes, a line each, and ends after the first: the end of a replay."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from grape_interfaces.msg import EpisodeScore
from rclpy.node import Node

from grape_episode import topics
from grape_episode.ros import EVENT, declare, run_node
from grape_reward.result import Score


class ScoreNode(Node):
    """Parameters: ``out``, a file for the score's JSON; ``count``, scores after which it ends (0: never)."""

    def __init__(self) -> None:
        super().__init__("grape_score")
        self._out = declare(self, "out", "", "File for the score as JSON, the last one; empty: none.")
        self._left = declare(self, "count", 1, "Ends after so many scores; 0: never.", (0, 1_000_000))
        self.create_subscription(EpisodeScore, topics.SCORE, self._heard, EVENT)

    def _heard(self, message: EpisodeScore) -> None:
        print(score_line(message.json), flush=True)
        if self._out:
            Path(self._out).write_text(message.json + "\n", encoding="utf-8")
        self._left -= 1
        if self._left == 0:
            raise SystemExit(0)


def score_line(text: str) -> str:
    """What a person wants of a score's JSON, in one line. Raises ValueError for what is no score."""
    score = Score.from_json(text)
    outcome = score.outcome or f"not scored: {'; '.join(score.problems)}"
    costs = " ".join(_figure(cost) for cost in score.stage_costs)
    figures = f"log R_ext {_figure(score.log_r_ext)}, R_GCPG {_figure(score.reward)}, stage costs {costs}"
    return f"{score.episode_id}: {outcome}; objective {score.objective}, {figures}"


def _figure(number: float) -> str:
    return "unknown" if math.isnan(number) else f"{number:.4f}"


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_node(ScoreNode))


if __name__ == "__main__":
    main()
