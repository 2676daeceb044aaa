"""What ``grape recover-robot`` does: the simulated arm and the recovery node as processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from franka_msgs.msg import FrankaRobotState
from std_srvs.srv import SetBool

from grape.recover_cli import recover_robot_command
from grape.ros import Client, NoAnswerError
from grape_episode import topics
from grape_episode.ros import EVENT
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_sim.franka_node import REFLEX, USER_STOP

pytestmark = pytest.mark.ros


class Arm:
    """The buttons of the simulated arm, and its mode."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._heard: list[int] = []
        client.node.create_subscription(
            FrankaRobotState, topics.ROBOT_STATE, lambda m: self._heard.append(m.robot_mode), EVENT
        )
        self._services = {name: client.node.create_client(SetBool, name) for name in (USER_STOP, REFLEX)}

    def press(self, name: str, pressed: bool) -> None:
        service = self._services[name]
        assert service.wait_for_service(20.0)
        self.client.call(service, SetBool.Request(data=pressed), 20.0, name)

    def becomes(self, mode: int, deadline: float = 20.0) -> None:
        wait_for(lambda: self._heard and self._heard[-1] == mode, f"mode {mode}", deadline)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm]:
    folder, domain = tmp_path_factory.mktemp("recover"), free_domain()
    sim = NodeProcess("grape_sim.sim_node", domain, folder / "sim.log", {"image_size": 32, "camera_hz": 1.0})
    recovery = NodeProcess("grape_robot.recovery_node", domain, folder / "recovery.log", {"deadline": 5.0})
    with sim, recovery, Client(domain, "person") as client:
        arm = Arm(client)
        arm.becomes(FrankaRobotState.ROBOT_MODE_MOVE, 90.0)
        wait_for(lambda: client.node.count_services(topics.RECOVER_ROBOT), "the recovery node", 90.0)
        yield arm


def test_an_arm_comes_back_after_a_reflex(arm: Arm, capsys: pytest.CaptureFixture[str]) -> None:
    arm.press(REFLEX, True)
    arm.becomes(FrankaRobotState.ROBOT_MODE_REFLEX)
    recover_robot_command(arm.client.domain)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("recovered: error recovery; activating the hardware FrankaHardwareInterface; activating")
    arm.becomes(FrankaRobotState.ROBOT_MODE_MOVE)


def test_a_pressed_user_stop_is_one_line_and_a_failure(arm: Arm) -> None:
    arm.press(USER_STOP, True)
    arm.becomes(FrankaRobotState.ROBOT_MODE_USER_STOPPED)
    with pytest.raises(NoAnswerError) as failure:
        recover_robot_command(arm.client.domain)
    line = str(failure.value)
    assert line.startswith("/grape/recover_robot: ") and "user stop" in line and len(line.splitlines()) == 1
    arm.press(USER_STOP, False)
    wait_for(lambda: asked_again(arm.client.domain), "the word of the release to reach the recovery node", 20.0)
    arm.becomes(FrankaRobotState.ROBOT_MODE_MOVE)


def asked_again(domain: int) -> bool:
    """Whether the arm was recovered; False where the stop still counts as pressed."""
    try:
        recover_robot_command(domain)
    except NoAnswerError as refusal:
        assert "release it first" in str(refusal)
        return False
    return True
