"""`grape adapters`: what it says, what it refuses, and that the pointer follows a policy that answers over topics."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import AdapterInfo
from grape_interfaces.srv import ListAdapters, LoadAdapter
from peft import LoraConfig
from rclpy.action import ActionServer
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from typer.testing import CliRunner, Result

from grape import adapters_cli
from grape.console import CommandError, one_line
from grape.deployment import with_canary
from grape.evaluation import Job
from grape.evaluation import Result as Trial
from grape_episode import topics
from grape_episode.testing import free_domain
from grape_policy.adapters import AdapterManifest, adapter_hash
from grape_trainer import peft_folder
from grape_trainer.gate import Verdict
from grape_trainer.registry import Registry


def adapter(folder: Path, value: float, accepted: bool | None = True, parent: str = "", **more: object) -> Path:
    weights = {
        "base_model.model.projector.fc1.lora_A.weight": torch.full((2, 4), value),
        "base_model.model.projector.fc1.lora_B.weight": torch.full((3, 2), value),
    }
    peft_folder.write_adapter(folder, weights, LoraConfig(r=2, target_modules=["projector.fc1"]))
    verdict = {} if accepted is None else {"accepted": accepted, "reason": "7 of 24 instead of 17"}
    told = {"parent": parent, "verdict": verdict, "created": f"2026-01-0{int(value)}", **more}
    peft_folder.write_manifest(folder, AdapterManifest(adapter_hash(folder), "b" * 64, **told))  # type: ignore[arg-type]
    return folder


def grape(registry: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(adapters_cli.app, [*arguments, "--registry", str(registry)])
    assert done.exit_code == 0 or done.exception is not None
    return done


def refusal(registry: Path, *arguments: str) -> str:
    """The one line with which a command refuses."""
    done = grape(registry, *arguments)
    assert done.exit_code != 0 and done.exception is not None, done.output
    assert type(done.exception).__module__.startswith("grape"), repr(done.exception)
    return one_line(done.exception)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


def test_the_list_tells_parents_gate_and_what_serves(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(adapter(tmp_path / "1", 1.0))
    two = registry.add(adapter(tmp_path / "2", 2.0, False, one, pairs=17))
    registry.promote(one)
    lines = grape(registry.root, "list").output.splitlines()
    (first,) = (line for line in lines if one[:12] in line)
    (second,) = (line for line in lines if two[:12] in line)
    assert f"{one[:12]} *" in first and "passed" in first and "serves" in first
    assert one[:8] in second and "refused" in second and "never" in second and "17" in second
    shown = grape(registry.root, "show", two[:10], "--runs", str(tmp_path)).output
    assert "7 of 24 instead of 17" in shown and one[:8] in shown
    assert json.loads(grape(registry.root, "show", two, "--json").output)["parent"] == one
    assert "promote: serves after the base model" in " ".join(
        grape(registry.root, "show", one, "--runs", str(tmp_path)).output.split()
    )


def test_verify_names_a_missing_manifest_and_loses_nothing(registry: Registry, tmp_path: Path) -> None:
    one, two = (registry.add(adapter(tmp_path / str(i), float(i))) for i in (1, 2))
    assert "all 2 adapters are whole" in grape(registry.root, "verify").output.replace("\n", " ")
    (registry.path(one) / "manifest.json").unlink()
    done = grape(registry.root, "verify")
    assert isinstance(done.exception, CommandError) and "1 of 2" in str(done.exception)
    (line,) = done.stderr.strip().splitlines()
    assert one in line and "manifest.json" in line
    for command in (("promote", one), ("show", one), ("show", one, "--json"), ("diff", one, two)):
        said = refusal(registry.root, *command)
        assert "manifest.json" in said, command
    assert "damaged" in grape(registry.root, "list").output
    assert "damaged" in grape(registry.root, "gc", "--delete", "--runs", str(tmp_path / "runs")).output
    assert (registry.path(one) / "adapter_model.safetensors").is_file()


def test_gc_removes_only_when_told(registry: Registry, tmp_path: Path) -> None:
    one, two = (registry.add(adapter(tmp_path / str(i), float(i))) for i in (1, 2))
    registry.promote(one)
    runs = str(tmp_path / "runs")
    assert "1 of 2 adapters" in grape(registry.root, "gc", "--runs", runs).output
    assert len(registry.list()) == 2
    assert "removed" in grape(registry.root, "gc", "--delete", "--runs", runs).output
    assert [entry.adapter_id for entry in registry.list()] == [one]
    assert refusal(registry.root, "show", two[:12]).endswith(f"no adapter named {two[:12]!r}")


def test_diff_tells_settings_and_distance(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(adapter(tmp_path / "1", 1.0, settings={"beta": 0.1}, episodes=("a",)))
    two = registry.add(adapter(tmp_path / "2", 2.0, settings={"beta": 4.5}, episodes=("a", "b")))
    said = " ".join(grape(registry.root, "diff", one, two).output.split())
    assert "beta" in said and "4.5" in said and "1 in both, 0 only in" in said and "cosine 1.0000" in said


def test_a_canary_takes_the_place_of_the_old_one_and_leaves_the_other_checks() -> None:
    checks = [
        {"name": "held-out preference accuracy", "passed": True, "words": "accuracy 80 %", "figures": {}},
        {"name": "KL to the reference", "passed": True, "words": "KL 0.01", "figures": {}},
        {"name": "canary", "passed": None, "words": "no canary", "figures": {}},
    ]
    manifest = {"verdict": {"accepted": True, "checks": checks}, "metrics": {}}
    bad = with_canary(manifest, Verdict(False, "12 points worse.", {"success": -0.12}))
    assert not bad.accepted and bad.reason == "12 points worse" and bad.checks[:2] == tuple(checks[:2])
    good = with_canary({"verdict": bad.to_dict()}, Verdict(True, "no difference."))
    assert good.accepted and good.reason == "accuracy 80 %; KL 0.01; no difference"
    refused = {"verdict": {"checks": [{**checks[0], "passed": False}, *checks[1:]]}}
    assert not with_canary(refused, Verdict(True, "no difference.")).accepted


def test_a_canary_before_the_promotion_is_judged_and_recorded(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Worlds:
        """The base model always succeeds, an adapter never."""

        def __init__(self, model: Path, workers: int) -> None:
            pass

        def run(self, jobs: Sequence[Job]) -> Iterator[Trial]:
            for job in jobs:
                good = not job.adapter
                yield Trial(job, good, good, False, 30, int(good), "success" if good else "step_limit")

    monkeypatch.setattr("grape.align.WorldWorkers", Worlds)
    one = registry.add(adapter(tmp_path / "1", 1.0))
    said = refusal(registry.root, "promote", one, "--canary", "5", "--domain", "0")
    assert "the gate refused it" in said and "success on the canary" in said
    verdict = registry.list()[0].manifest["verdict"]
    assert verdict["accepted"] is False and verdict["checks"][2]["passed"] is False
    assert verdict["figures"]["success"]["difference"] == -1.0


class Policy:
    """What `grape adapters` needs of a policy node, in a domain of its own."""

    def __init__(self, domain: int) -> None:
        self.serving, self.refuse = "", ""
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("grape_policy", context=self.context)
        self.server = ActionServer(self.node, RunEpisode, topics.RUN_EPISODE, lambda handle: RunEpisode.Result())
        self.node.create_service(LoadAdapter, topics.LOAD_ADAPTER, self.load)
        self.node.create_service(ListAdapters, topics.LIST_ADAPTERS, self.list)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def load(self, request: LoadAdapter.Request, response: LoadAdapter.Response) -> LoadAdapter.Response:
        response.accepted, response.reason = not self.refuse, self.refuse
        if response.accepted:
            self.serving = Path(request.path).name if request.path else ""
        response.adapter = AdapterInfo(adapter_id=self.serving, serving=True)
        return response

    def list(self, request: ListAdapters.Request, response: ListAdapters.Response) -> ListAdapters.Response:
        response.adapters = [AdapterInfo(adapter_id=self.serving, serving=True)]
        return response

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def policy() -> Iterator[tuple[Policy, list[str]]]:
    domain = free_domain()
    made = Policy(domain)
    yield made, ["--domain", str(domain)]
    made.close()


@pytest.mark.ros
def test_promote_and_rollback_go_through_the_policy(
    registry: Registry, tmp_path: Path, policy: tuple[Policy, list[str]]
) -> None:
    node, domain = policy
    one = registry.add(adapter(tmp_path / "1", 1.0))
    two = registry.add(adapter(tmp_path / "2", 2.0, accepted=False))
    assert "serves" in grape(registry.root, "promote", one[:12], *domain).output
    assert node.serving == one == registry.current
    assert "7 of 24" in refusal(registry.root, "promote", two, *domain)
    assert "note" in refusal(registry.root, "promote", two, "--force", *domain)
    assert "a policy answers" in refusal(registry.root, "rollback", "--offline", *domain)
    node.refuse = "rank 64 is above 32"
    assert "rank 64" in refusal(registry.root, "promote", two, "--force", "--note", "on the bench", *domain)
    assert node.serving == one == registry.current
    node.refuse = ""
    grape(registry.root, "promote", two, "--force", "--note", "on the bench", *domain)
    assert node.serving == two == registry.current and registry.history()[-1]["note"] == "on the bench"
    grape(registry.root, "rollback", *domain)
    assert node.serving == one == registry.current
    grape(registry.root, "promote", "base", *domain)
    assert node.serving == "" == registry.current


@pytest.mark.ros
def test_without_a_policy_nothing_moves_unless_told(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grape.deployment.LOOK_SECONDS", 0.3)
    domain = ["--domain", str(free_domain())]
    one = registry.add(adapter(tmp_path / "1", 1.0))
    assert "is the policy node running" in refusal(registry.root, "promote", one, *domain)
    assert registry.current == ""
    assert "next start" in grape(registry.root, "promote", one, "--offline", *domain).output
    assert registry.current == one and registry.history()[-1]["offline"]
    grape(registry.root, "rollback", "--offline", *domain)
    assert registry.current == ""
    assert "nothing served before" in refusal(registry.root, "rollback", "--offline", *domain)
