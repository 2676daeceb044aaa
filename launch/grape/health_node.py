"""Asks the running stack whether it is well: ``python -m grape.health_node``, for a container's healthcheck.

Well is: the gate speaks, and the policy node is active. A gate that has stopped is well, too: it did its duty, and a
restart of the container would be the wrong answer to it."""

from __future__ import annotations

import argparse
import os
import sys
import time

from grape_interfaces.msg import GateStatus
from lifecycle_msgs.srv import GetState

from grape.lifecycle import ACTIVE, STATES
from grape.ros import Client, NoAnswerError
from grape_episode import topics
from grape_episode.ros import EVENT

MODES = {GateStatus.IDLE: "idle", GateStatus.ACTIVE: "active", GateStatus.HOLD: "hold", GateStatus.STOPPED: "stopped"}


class UnwellError(Exception):
    """Something does not answer, or is not as it should be; the text names it."""


def look(client: Client, seconds: float, namespace: str = "") -> str:
    """What the stack in the client's domain says of itself, in one line. Raises UnwellError, NoAnswerError."""
    heard: list[GateStatus] = []
    client.node.create_subscription(GateStatus, topics.GATE_STATUS, heard.append, EVENT)
    name = f"{namespace}/grape_policy/get_state"
    service = client.node.create_client(GetState, name)
    end = time.monotonic() + seconds
    while not (heard and service.service_is_ready()):
        if time.monotonic() > end:
            raise UnwellError(f"{topics.GATE_STATUS if not heard else name}: silent for {seconds:g} s")
        time.sleep(0.02)
    state = client.call(service, GetState.Request(), seconds, name).current_state.id
    if state != ACTIVE:
        raise UnwellError(f"{namespace}/grape_policy is {STATES.get(state, state)} instead of {STATES[ACTIVE]}")
    last = heard[-1]
    why = f" ({last.check}: {last.reason})" if last.check else ""
    return f"gate {MODES.get(last.state, last.state)}{why}, policy active"


def main(arguments: list[str] | None = None) -> int:
    """0 and a line where all is well, else 1 and a line."""
    parser = argparse.ArgumentParser(prog="grape.health_node", description="Ask the running stack whether it is well.")
    domain = int(os.environ.get("ROS_DOMAIN_ID") or 0)
    parser.add_argument("--domain", type=int, default=domain, help="ROS domain; default: ROS_DOMAIN_ID")
    parser.add_argument("--namespace", default="", help="of the nodes' own names, as namespace:= of the launch")
    parser.add_argument("--seconds", type=float, default=5.0, help="to wait for each answer")
    told = parser.parse_args(arguments)
    namespace = f"/{told.namespace.strip('/')}".rstrip("/")
    try:
        with Client(told.domain, "grape_health") as client:
            print(look(client, told.seconds, namespace))
    except (UnwellError, NoAnswerError) as error:
        print(f"unwell: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
