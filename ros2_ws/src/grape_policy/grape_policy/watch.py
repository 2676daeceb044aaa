"""What an episode waits for: observations, verdicts, judgements. Every wait has a deadline and ends in one line for
people; what ends an episode ends every wait. No ROS here."""

from __future__ import annotations

from collections.abc import Callable

from grape_episode import topics
from grape_episode.episode import DEAD_MAN, GATE_VETOED, OPERATOR, Identity
from grape_policy.ending import ERROR, GATE_FAULT, STALE_CAMERA, SUCCESS, VETOED, EpisodeEnd, check_interrupt
from grape_policy.observation import YES, Inbox, Observation, TaskSample, WorldSample
from grape_policy.pacing import Pacer
from grape_policy.parameters import EpisodeSettings


class Watch:
    """Waits over an inbox for one episode. ``now``: ROS time, nanoseconds; ``steady``: seconds of this machine.

    ``last``: stamp of the last observation; ``answered``: how many have been answered, for what is said of the end;
    ``waited``: somebody else drove since the last observation."""

    def __init__(
        self, inbox: Inbox, now: Callable[[], int], settings: EpisodeSettings, steady: Callable[[], float]
    ) -> None:
        self.inbox, self.settings = inbox, settings
        self._now, self._steady = now, steady
        self.last = 0
        self.answered = 0
        self.waited = False
        self._vetoes = 0
        self._judged = -1

    def interrupt(self) -> None:
        """Raise what ends an episode at any time: a stop, a gate fault, too many vetoes. Under the inbox's lock.

        Steps refused because a person drives, or has let the dead-man's button go, say nothing of the policy."""
        inbox = self.inbox
        check_interrupt(inbox)
        while inbox.verdicts:
            verdict = inbox.verdicts.popleft()
            self._judged = max(self._judged, verdict.step)
            if verdict.check in (OPERATOR, DEAD_MAN):
                continue
            self._vetoes = self._vetoes + 1 if verdict.verdict == GATE_VETOED else 0
            if self._vetoes >= self.settings.veto_limit:
                raise EpisodeEnd(
                    VETOED,
                    f"{self._vetoes} vetoes in a row, the last at step {verdict.step}: "
                    f"{verdict.check}: {verdict.reason}",
                )

    def success(self) -> None:
        """Raise the end of an episode that has succeeded."""
        task = self.inbox.task
        if task is not None and task.success == YES:
            self.last = max(self.last, task.stamp)
            raise EpisodeEnd(SUCCESS, f"after {self.answered} steps")

    def armed(self, identity: Identity) -> None:
        """Wait for the gate to be armed for the episode."""

        def ready() -> bool | None:
            self.interrupt()
            gate = self.inbox.gate
            if gate is not None and gate.check == "episode":
                raise EpisodeEnd(GATE_FAULT, f"the gate declines the episode: {gate.reason}")
            return True if gate is not None and gate.episode_id == identity.episode_id else None

        if self.inbox.wait(ready, self.settings.deadline) is None:
            gate = self.inbox.gate
            said = "says nothing" if gate is None else f"is armed for {gate.episode_id or 'no episode'}"
            raise EpisodeEnd(GATE_FAULT, f"the gate {said} on {topics.GATE_STATUS} after {self.settings.deadline:g} s")

    def clear(self, seen: Observation) -> bool:
        """Whether a decision on ``seen`` may be sent: the arm has been the policy's ever since."""

        def look() -> bool:
            self.interrupt()
            return not self.inbox.driven and seen.stamp > self.inbox.handed_back

        return bool(self.inbox.wait(look, 0))

    def exact(self, period: float) -> Observation:
        """Lock-step: the frame after the last answered one, with everything of its very stamp."""
        missing = [""]

        def whole() -> Observation | None:
            self.interrupt()
            frame, settings = self.inbox.frame, self.settings
            if frame is None or frame.stamp <= self.last:
                missing[0] = settings.color_topic
                return None
            tcp, width = self.inbox.tcp.at(frame.stamp), self.inbox.width.at(frame.stamp)
            judged = not settings.await_task_status or self.inbox.tasks.at(frame.stamp) is not None
            parts = ((settings.pose_topic, tcp), (settings.joints_topic, width), (topics.TASK_STATUS, judged or None))
            missing[0] = ", ".join(topic for topic, value in parts if value is None)
            return Observation(frame, tcp, width) if judged and tcp is not None and width is not None else None

        previous, seen = self.last, self.inbox.wait(whole, self.settings.deadline)
        if seen is None:
            reason = STALE_CAMERA if missing[0] == self.settings.color_topic else ERROR
            raise EpisodeEnd(
                reason, f"nothing on {missing[0]} for observation {self.answered} after {self.settings.deadline:g} s"
            )
        if self.answered and abs(seen.stamp - previous - period * 1e9) > 0.5e9 * period:
            raise EpisodeEnd(
                ERROR,
                f"observation {self.answered} on {self.settings.color_topic} came {(seen.stamp - previous) / 1e9:g} s "
                f"after the last, not one control period of {period:g} s: the world did not wait",
            )
        self.last = seen.stamp
        return seen

    def newest(self, pacer: Pacer, driven: bool = False) -> Observation:
        """Real time: at the next tick, the newest frame not yet answered, with the state measured when it was taken.

        While somebody else drives, nothing is answered and nothing is late; what follows is answered on a frame that
        was taken after the arm was handed back. ``driven``: answer all the same."""
        settings, inbox = self.settings, self.inbox
        began = self._steady()
        problem = [EpisodeEnd(STALE_CAMERA, f"no frame on {settings.color_topic}")]

        def ready() -> Observation | None:
            self.interrupt()
            self.success()
            self.alive()
            if inbox.driven and not driven:
                self.waited = True
                return None
            frame, now = inbox.frame, self._now()
            if frame is None or frame.stamp <= (self.last if driven else max(self.last, inbox.handed_back)):
                problem[0] = EpisodeEnd(STALE_CAMERA, f"no new frame on {settings.color_topic}")
                return None
            if pacer.left(now) > 0:
                problem[0] = EpisodeEnd(ERROR, "the clock stands still: is /clock published?")
                return None
            age = (now - frame.stamp) / 1e9
            if age > settings.max_observation_age:
                problem[0] = EpisodeEnd(STALE_CAMERA, f"frames on {settings.color_topic} are {age:.3f} s old")
                return None
            tcp = inbox.tcp.before(frame.stamp, settings.max_observation_age)
            width = inbox.width.before(frame.stamp, settings.max_observation_age)
            if tcp is None or width is None:
                topic = settings.pose_topic if tcp is None else settings.joints_topic
                problem[0] = EpisodeEnd(ERROR, f"nothing on {topic} at or before the frame")
                return None
            return Observation(frame, tcp, width)

        while True:
            # the ROS clock does not notify: poll it, finely only when the tick is near
            near = min(max(pacer.left(self._now()), 0.002), 0.02)
            seen = inbox.wait(ready, near, poll=near)
            if seen is not None:
                self.last = seen.stamp
                return seen
            if inbox.driven and not driven:
                began = self._steady()
            elif self._steady() - began > max(settings.camera_deadline, 2 * pacer.period):
                raise EpisodeEnd(problem[0].reason, f"{problem[0].detail} for {settings.camera_deadline:g} s")

    def alive(self) -> None:
        """Raise the end of an episode whose gate has fallen silent. Under the inbox's lock."""
        gate = self.inbox.gate
        if gate is not None and self._steady() - gate.received > self.settings.gate_deadline:
            raise EpisodeEnd(GATE_FAULT, f"nothing on {topics.GATE_STATUS} for {self.settings.gate_deadline:g} s")

    def verdict(self, step: int) -> None:
        """Lock-step: wait for the gate's verdict on ``step``."""

        def judged() -> bool | None:
            self.interrupt()
            return True if self._judged >= step else None

        if self.inbox.wait(judged, self.settings.deadline) is None:
            raise EpisodeEnd(
                GATE_FAULT, f"no verdict on step {step} on {topics.GATE_STATUS} after {self.settings.deadline:g} s"
            )

    def catch_up(self, latest: Callable[[], TaskSample | WorldSample | None], seconds: float) -> None:
        """Wait for the judgement of the last observation, where somebody judges."""

        def caught_up() -> bool | None:
            sample = latest()
            return True if sample is None or sample.stamp >= self.last else None

        self.inbox.wait(caught_up, seconds)
