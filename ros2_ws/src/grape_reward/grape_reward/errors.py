"""What can go wrong in scoring."""

from __future__ import annotations

from dataclasses import dataclass


class RewardError(Exception):
    """Base of this package's errors. The text is one line and names what is at fault."""


class TaskError(RewardError):
    """An unknown task or objective, or a task whose numbers do not fit its cost program."""


class CostError(RewardError):
    """A cost program that cannot be used, or a cost that is not a finite number."""


@dataclass(frozen=True)
class Finding:
    """Why a cost program is refused: 1-based ``line`` and ``column``, and a sentence for its author."""

    line: int
    column: int
    message: str


class ProgramError(CostError):
    """The text of a cost program is refused: ``where`` it came from and ``findings``, at least one, in its order."""

    def __init__(self, where: str, findings: tuple[Finding, ...]) -> None:
        self.where, self.findings = where, findings
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(self.lines[0] + more)

    def __reduce__(self) -> tuple[type[ProgramError], tuple[str, tuple[Finding, ...]]]:
        return type(self), (self.where, self.findings)

    @property
    def lines(self) -> tuple[str, ...]:
        """``FILE:LINE:COLUMN: sentence``, one a finding."""
        return tuple(f"{self.where}:{f.line}:{f.column}: {f.message}" for f in self.findings)


class ScoreError(RewardError):
    """An episode that cannot be scored. The text begins with its file or its id."""
