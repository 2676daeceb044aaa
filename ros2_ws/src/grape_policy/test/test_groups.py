import pytest
import torch
from torch import nn

from grape_policy.groups import LinearGroup, linear


def layers(bias: bool) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(8, width, bias=bias).requires_grad_(False) for width in (6, 4, 10)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 40])
def test_a_group_computes_what_its_layers_compute_and_shares_their_memory(bias: bool, rows: int) -> None:
    single = layers(bias)
    x = torch.randn(rows, 8)
    expected = torch.cat([layer(x) for layer in single], dim=-1)
    group = LinearGroup(single)
    group.allocate(2, merged=False)
    torch.testing.assert_close(group(x, None), expected)
    torch.testing.assert_close(torch.cat([layer(x) for layer in single], dim=-1), expected)
    assert single[1].weight.untyped_storage().data_ptr() == group.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("merged", [False, True])
def test_each_slot_adds_its_own_pairs_and_the_other_stays(merged: bool) -> None:
    single = layers(True)
    group = LinearGroup(single)
    group.allocate(4, merged)
    x = torch.randn(3, 8)
    base = group(x, None)
    first = [(torch.randn(4, 8), torch.randn(6, 4)), None, (torch.randn(1, 8), torch.randn(10, 1))]
    second = [None, (torch.randn(2, 8), torch.randn(4, 2)), None]
    group.put(0, first)
    group.put(1, second)
    for slot, pairs in ((0, first), (1, second)):
        expected = base.clone()
        for rows, pair in zip(group.rows, pairs, strict=True):
            if pair is not None:
                expected[:, rows] += x @ pair[0].T @ pair[1].T
        torch.testing.assert_close(group(x, slot), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(group(x, None), base)
    group.put(0, [None, None, None])
    assert torch.equal(group(x, 0), base)
    assert group.active == [False, True]


def test_a_lower_rank_leaves_nothing_of_a_higher_one_behind() -> None:
    group = LinearGroup(layers(False))
    group.allocate(4, merged=False)
    x = torch.randn(2, 8)
    low = [(torch.randn(1, 8), torch.randn(6, 1)), None, None]
    group.put(1, low)
    expected = group(x, 1)
    group.put(1, [(torch.randn(4, 8), torch.randn(6, 4)), (torch.randn(4, 8), torch.randn(4, 4)), None])
    group.put(1, low)
    assert torch.equal(group(x, 1), expected)


def test_either_library_multiplies_alike() -> None:
    x, weight, bias = torch.randn(2, 33, 24), torch.randn(7, 24), torch.randn(7)
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.T + bias, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(linear(x[:1, :1], weight), x[:1, :1] @ weight.T, atol=1e-5, rtol=1e-5)
