"""The score of one episode, with the hashes of what it was computed from."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Score:
    """GCPG of one episode (Eq. 8 to 12 of paper 002).

    ``log_r_ext``: log of Eq. 9. ``stage_costs``: Eq. 8, one a stage. ``r_self`` and ``r_self_per_token``: Eq. 11 in
    nats, NaN where unknown. ``success``: 1, 0, -1 unknown (Eq. 12). ``reward``: Eq. 10 with ``lambdas``, NaN where a
    term is unknown. ``incomplete``: something that the score needs was missing, ``problems`` says what: not to be
    trained on. ``inputs_hash``: sha256 of all the numbers that entered; ``cost_program_hash``, ``task_hash``,
    ``code_version``: what they were reckoned by. ``constraints``: each constraint's cost reduced over its stage's time,
    before threshold and weight (its declared worst where the stage was not seen to its end, NaN where a keypoint was
    lost). ``approved``: a person has approved the cost program. ``decomposition``: the stages end by the task's
    ``conditions`` or by ``stage points``. ``outcome``: success, failure, or review, where a person must decide;
    ``undecided`` says why, ``review`` what was decided by whom. Empty where nothing could be scored."""

    episode_id: str
    task: str
    initial_state: int
    objective: str
    log_r_ext: float
    stage_costs: tuple[float, ...]
    stages_reached: int
    r_self: float
    r_self_per_token: float
    success: int
    reward: float
    incomplete: bool
    cost_program_hash: str
    inputs_hash: str
    lambdas: tuple[float, float, float] = (0.01, 0.01, 2.0)
    constraints: tuple[tuple[str, float], ...] = ()
    problems: tuple[str, ...] = ()
    task_hash: str = ""
    code_version: str = ""
    approved: bool = False
    decomposition: str = ""
    outcome: str = ""
    undecided: tuple[str, ...] = ()
    review: str = ""

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, shortest float that reads back the same, NaN as null."""
        return json.dumps(_plain(asdict(self)), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Score:
        """The score that ``to_json`` wrote. Raises ValueError naming fields that are missing or unknown."""
        data = json.loads(text)
        names = {field.name for field in fields(Score)}
        if not isinstance(data, dict) or set(data) != names:
            found = set(data) if isinstance(data, dict) else set()
            raise ValueError(f"not a score: fields {', '.join(sorted(found ^ names))} are missing or unknown")
        for name in ("log_r_ext", "r_self", "r_self_per_token", "reward"):
            data[name] = math.nan if data[name] is None else float(data[name])
        for name in ("stage_costs", "lambdas"):
            data[name] = tuple(math.nan if value is None else float(value) for value in data[name])
        data["constraints"] = tuple((n, math.nan if v is None else float(v)) for n, v in data["constraints"])
        for name in ("problems", "undecided"):
            data[name] = tuple(data[name])
        return Score(**data)

    @property
    def hash(self) -> str:
        """sha256 hex of the canonical JSON: equal hashes are equal scores, bit for bit."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def unscorable(episode_id: str, task: str, initial_state: int, objective: str, reason: str) -> Score:
    """The score of an episode that cannot be scored at all: nothing known, incomplete, with the reason."""
    nan = math.nan
    return Score(
        episode_id, task, initial_state, objective, nan, (), 0, nan, nan, -1, nan, True, "", "", problems=(reason,)
    )
