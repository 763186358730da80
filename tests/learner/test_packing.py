"""Packing: the plan is a partition within the budget, and no token of a packed row sees another sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.packing import pack, plan_packing
from tests.learner.batches import examples

LENGTHS = st.lists(st.integers(2, 300), max_size=60)


@given(LENGTHS, st.integers(64, 512), st.integers(1, 4), st.sampled_from([None, 1, 3]))
def test_every_sequence_once_and_as_many_micro_batches_on_each_rank(
    lengths: list[int], budget: int, world_size: int, max_sequences: int | None
) -> None:
    plan = plan_packing(lengths, budget, world_size, max_sequences)
    assert len(plan) == world_size
    assert len({len(rank) for rank in plan}) == 1
    assert sorted(i for rank in plan for items in rank for i in items) == list(range(len(lengths)))
    for items in (items for rank in plan for items in rank):
        assert sum(lengths[i] for i in items) <= max(budget, max(lengths, default=0))
        assert len(items) <= (max_sequences or len(lengths))


@given(LENGTHS, st.integers(300, 512), st.integers(1, 4))
def test_ranks_are_balanced(lengths: list[int], budget: int, world_size: int) -> None:
    loads = [sum(lengths[i] for items in rank for i in items) for rank in plan_packing(lengths, budget, world_size)]
    assert max(loads) - min(loads) <= 2 * max(lengths, default=0)


def test_the_same_input_gives_the_same_plan() -> None:
    lengths = [17, 17, 40, 3, 3, 90, 64]
    assert plan_packing(lengths, 96, 2) == plan_packing(list(lengths), 96, 2)


def test_a_row_predicts_answer_tokens_alone_and_never_across_a_border() -> None:
    batch = examples(5, seed=4)
    row = pack([e.token_ids for e in batch], [e.loss_mask for e in batch])
    start = predicted = 0
    for example, length, count in zip(batch, row.lengths, row.counts, strict=True):
        where = row.predict_N[predicted : predicted + count]
        assert (where >= start).all() and (where + 1 < start + length).all()
        answer = np.flatnonzero(example.loss_mask[1:]) + 1
        assert (row.target_N[predicted : predicted + count] == example.token_ids[answer]).all()
        assert (row.position_ids_T[start : start + length] == np.arange(length)).all()
        start, predicted = start + length, predicted + count


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["small_llama", "smollm2"])
def test_changing_one_packed_sequence_leaves_the_others_logits_bit_equal(
    name: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    from ledex_ray.policy import RowTensors, Trunk, load_lm

    path: Path = request.getfixturevalue(name)
    lm = load_lm(path, dtype)
    trunk, head = Trunk(lm), lm.get_output_embeddings()
    masks = [np.ones(length, dtype=bool) for length in (19, 33, 12)]
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 90, len(mask)).astype(np.int32) for mask in masks]
    changed = [sequences[0], random.integers(1, 90, 33).astype(np.int32), sequences[2]]
    with torch.no_grad():
        before, after = (head(trunk.hidden(RowTensors.of(pack(row, masks)))) for row in (sequences, changed))
        alone = [head(trunk.hidden(RowTensors.of(pack([s], [m])))) for s, m in zip(sequences, masks, strict=True)]
    kept = torch.tensor([True] * 18 + [False] * 32 + [True] * 11)
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[~kept], after[~kept])
    if dtype == "float32":
        torch.testing.assert_close(before, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_log_probs_and_their_gradients_equal_log_softmax(dtype: str) -> None:
    from ledex_ray.token_log_probs import TokenLogProbHead

    torch.manual_seed(0)
    head = TokenLogProbHead(8, 37, bias=True).to(getattr(torch, dtype))
    hidden = torch.randn(11, 8, dtype=getattr(torch, dtype), requires_grad=True)
    target, temperature = torch.randint(0, 37, (11,)), torch.rand(11) + 0.5
    weight, entropy_weight = torch.randn(11), torch.randn(11)
    chosen, entropy = head(hidden, target, temperature, True)
    (weight @ chosen + entropy_weight @ entropy).backward()
    got = [hidden.grad, head.weight.grad, head.bias.grad]
    hidden.grad = head.weight.grad = head.bias.grad = None
    plain = torch.log_softmax(torch.nn.functional.linear(hidden, head.weight, head.bias) / temperature[:, None], -1)
    expected = plain.gather(1, target[:, None]).squeeze(1)
    expected_entropy = -(plain.exp() * plain).sum(-1)
    torch.testing.assert_close(chosen.double(), expected.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy.double(), atol=1e-5, rtol=1e-5)
    (weight.double() @ expected.double() + entropy_weight.double() @ expected_entropy.double()).backward()
    for mine, theirs in zip(got, [hidden.grad, head.weight.grad, head.bias.grad], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
