"""Packing: the plan is a partition within the budget, and no token of a packed row sees another sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.episodes import Episode, SupervisedExample
from ledex_ray.packing import Family, Items, pack, plan_packing
from tests.learner.batches import episodes, examples

FAMILIES = st.lists(st.tuples(st.integers(0, 100), st.lists(st.integers(2, 200), min_size=1, max_size=6)), max_size=20)


def laid_out(shapes: list[tuple[int, list[int]]]) -> list[Family]:
    """Families with the given prompts and rests; items are numbered throughout."""
    families, first = [], 0
    for prompt, rests in shapes:
        families.append(Family(tuple(range(first, first + len(rests))), (prompt if len(rests) > 1 else 0, *rests)))
        first += len(rests)
    return families


def tokens_of(items: Items, families: list[Family]) -> int:
    """Tokens laid for these items: each family's prompt once, each rest once."""
    rests = {item: rest for f in families for item, rest in zip(f.items, f.span[1:], strict=True)}
    return sum(f.span[0] for f in families if set(f.items) & set(items)) + sum(rests[item] for item in items)


@given(FAMILIES, st.integers(64, 512), st.integers(1, 4))
def test_every_sequence_once_and_as_many_micro_batches_on_each_rank(
    shapes: list[tuple[int, list[int]]], budget: int, world_size: int
) -> None:
    families = laid_out(shapes)
    plan = plan_packing(families, budget, world_size)
    assert len(plan) == world_size
    assert len({len(rank) for rank in plan}) == 1
    assert sorted(i for rank in plan for items in rank for i in items) == [i for f in families for i in f.items]
    alone = max((f.span[0] + rest for f in families for rest in f.span[1:]), default=0)
    for items in (items for rank in plan for items in rank):
        assert tokens_of(items, families) <= max(budget, alone)


def test_a_model_that_cannot_be_packed_gets_one_sequence_a_micro_batch() -> None:
    plan = plan_packing([Family((i,), (0, 10 + i)) for i in range(5)], 512, 2, max_families=1)
    assert sorted(len(items) for rank in plan for items in rank) == [0, 1, 1, 1, 1, 1]


@given(FAMILIES, st.integers(300, 512), st.integers(1, 4))
def test_ranks_are_balanced(shapes: list[tuple[int, list[int]]], budget: int, world_size: int) -> None:
    families = laid_out(shapes)
    plan = plan_packing(families, budget, world_size)
    loads = [sum(tokens_of(items, families) for items in rank) for rank in plan]
    assert max(loads) - min(loads) <= 2 * max((f.size for f in families), default=0)


def test_a_group_is_cut_where_ranks_would_be_idle_and_kept_whole_where_not() -> None:
    group = Family(tuple(range(8)), (30, *[20] * 8))
    assert [sorted(rank) for rank in plan_packing([group], 512, 1)] == [[tuple(range(8))]]
    assert sorted(len(items) for rank in plan_packing([group], 512, 4) for items in rank) == [2, 2, 2, 2]


def test_the_same_input_gives_the_same_plan() -> None:
    families = laid_out([(17, [17, 40]), (3, [3, 90, 64]), (0, [9])])
    assert plan_packing(families, 96, 2) == plan_packing(list(families), 96, 2)


@pytest.mark.parametrize("share_prompts", [False, True])
def test_a_row_predicts_answer_tokens_alone_and_from_their_own_sequence(share_prompts: bool) -> None:
    batch: list[SupervisedExample | Episode] = [*examples(9, seed=4), *episodes(8)]
    row = pack([e.token_ids for e in batch], [e.loss_mask for e in batch], share_prompts=share_prompts)
    laid = sum(sum(span) for span in row.spans)
    whole = sum(len(e.token_ids) for e in batch)
    assert len(row.token_ids_T) == len(row.position_ids_T) == laid
    assert laid < whole if share_prompts else laid == whole
    predicted = 0
    for example, count in zip(batch, row.counts, strict=True):
        where = row.predict_N[predicted : predicted + count]
        answer = np.flatnonzero(example.loss_mask[1:]) + 1
        assert (row.target_N[predicted : predicted + count] == example.token_ids[answer]).all()
        assert (row.token_ids_T[where] == example.token_ids[answer - 1]).all()
        assert (row.position_ids_T[where] == answer - 1).all()
        predicted += count
    assert predicted == len(row.predict_N)


@pytest.mark.parametrize("name", ["small_llama", "smollm2"])
def test_a_shared_prompt_changes_neither_log_probs_nor_gradients(name: str, request: pytest.FixtureRequest) -> None:
    from ledex_ray.policy import Policy, RowTensors, load_lm

    policy = Policy(load_lm(request.getfixturevalue(name), "float32"))
    batch = episodes(12, seed=5)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=4096)).float()
    found = []
    for share_prompts in (False, True):
        packed = pack([e.token_ids for e in batch], [e.loss_mask for e in batch], share_prompts=share_prompts)
        row = RowTensors.of(packed)
        log_probs_N, _, _ = policy(row, torch.ones(len(row.target_N)))
        policy.zero_grad()
        (log_probs_N @ weights[: len(log_probs_N)]).backward()
        gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        found.append((log_probs_N.detach(), gradients))
    (apart, expected), (shared, got) = found
    torch.testing.assert_close(shared, apart, atol=1e-4, rtol=1e-4)
    for parameter, gradient in expected.items():
        gap = float((got[parameter] - gradient).norm() / gradient.norm())
        assert gap < 1e-4, (parameter, gap)


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
