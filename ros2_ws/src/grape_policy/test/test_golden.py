import json
from pathlib import Path

import pytest
import torch

from grape_policy import golden
from grape_policy.model import OpenVla

DATA = Path(__file__).parents[4] / "tests" / "data" / "openvla-tiny"


def test_agrees_with_openvlas_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(DATA)]) == 0
    errors = json.loads(capsys.readouterr().out)
    assert errors["passed"] and errors["tokens"] == 0
    assert all(errors[name] <= bound for name, bound in golden.TOLERANCES.items())


def test_a_wrong_gelu_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    build = OpenVla.__init__

    def tanh(self: OpenVla, spec: object) -> None:
        build(self, spec)
        for layer in self.vision_backbone.fused_featurizer.encoder.layers:
            layer.mlp.activation_fn = torch.nn.GELU(approximate="tanh")

    monkeypatch.setattr(OpenVla, "__init__", tanh)
    assert golden.main([str(DATA)]) == 1
    assert json.loads(capsys.readouterr().out)["patches"] > golden.TOLERANCES["patches"]


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"golden: {tmp_path / 'nowhere'}: no such model folder\n"
