"""How an episode ends: its reasons, and what ends one whatever it waits for."""

from __future__ import annotations

from grape_policy.observation import STOPPED, Inbox

SUCCESS, STEP_LIMIT, CANCELLED, ERROR = "success", "step_limit", "cancelled", "error"
VETOED, STALE_CAMERA, GATE_FAULT = "vetoed", "stale_camera", "gate_fault"


class EpisodeEnd(Exception):
    """The episode ends here: ``reason`` as in EpisodeOutcome, ``detail`` one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def check_stop(inbox: Inbox) -> None:
    """Raise the EpisodeEnd of a stop, asked for or forced by a failure."""
    if inbox.stop_reason is not None:
        raise EpisodeEnd(ERROR if inbox.failed else CANCELLED, inbox.stop_reason)


def check_interrupt(inbox: Inbox) -> None:
    """Raise the EpisodeEnd of what ends a running episode whatever it waits for: a stop, a gate fault."""
    check_stop(inbox)
    if inbox.gate is not None and inbox.gate.state == STOPPED:
        raise EpisodeEnd(GATE_FAULT, f"the gate has stopped: {inbox.gate.reason or inbox.gate.check or 'no reason'}")
