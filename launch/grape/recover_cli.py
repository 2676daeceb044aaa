"""``grape recover-robot``: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from grape.console import console


def recover_robot_command(
    domain: Annotated[int, typer.Option("--domain", min=0, max=101, help="ROS domain of the nodes.")] = 0,
) -> None:
    """Bring the arm back after a reflex or a released user stop: error recovery, hardware, controllers, in this order.

    A person has looked first. The gate stays stopped: `grape reset-gate` is a step of its own."""
    from grape.ros import recover_robot

    console.print(recover_robot(domain))
