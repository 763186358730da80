"""Packing: the plan is a partition within the budget, and no token of a packed row sees another sequence."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.episodes import Episode, SupervisedExample
from ledex_ray.packing import LEAST_SAVED, Family, alone, families_of, pack, plan_packing
from tests.learner.batches import episodes, examples

FAMILIES = st.lists(st.tuples(st.integers(0, 100), st.lists(st.integers(2, 200), min_size=1, max_size=6)), max_size=20)


def laid_out(shapes: list[tuple[int, list[int]]]) -> list[Family]:
    """Families with the given prompts and rests; items are numbered throughout."""
    families, first = [], 0
    for prompt, rests in shapes:
        families.append(Family(tuple(range(first, first + len(rests))), (prompt if len(rests) > 1 else 0, *rests)))
        first += len(rests)
    return families


@given(FAMILIES, st.integers(64, 512), st.integers(1, 4))
def test_every_sequence_once_and_as_many_micro_batches_on_each_rank(
    shapes: list[tuple[int, list[int]]], budget: int, world_size: int
) -> None:
    families = laid_out(shapes)
    plan = plan_packing(families, budget, world_size)
    assert len(plan) == world_size
    assert len({len(rank) for rank in plan}) == 1
    laid = {
        item: (f.span[0], rest) for f in chain(*chain(*plan)) for item, rest in zip(f.items, f.span[1:], strict=True)
    }
    assert laid == {item: (f.span[0], rest) for f in families for item, rest in zip(f.items, f.span[1:], strict=True)}
    assert sum(len(f.items) for f in chain(*chain(*plan))) == len(laid)
    longest = max((sum(parts) for parts in laid.values()), default=0)
    for micro_batch in chain(*plan):
        assert sum(family.size for family in micro_batch) <= max(budget, longest)


def test_a_model_that_cannot_be_packed_gets_one_sequence_a_micro_batch() -> None:
    plan = plan_packing(alone([10, 11, 12, 13, 14]), 512, 2, max_families=1)
    assert sorted(len(micro_batch) for micro_batch in chain(*plan)) == [0, 1, 1, 1, 1, 1]


@given(FAMILIES, st.integers(300, 512), st.integers(1, 4))
def test_ranks_are_balanced(shapes: list[tuple[int, list[int]]], budget: int, world_size: int) -> None:
    families = laid_out(shapes)
    plan = plan_packing(families, budget, world_size)
    loads = [sum(family.size for family in chain(*rank)) for rank in plan]
    assert max(loads) - min(loads) <= 2 * max((f.size for f in families), default=0)


def test_a_group_is_cut_where_ranks_would_be_idle_and_kept_whole_where_not() -> None:
    group = Family(tuple(range(8)), (30, *[20] * 8))
    assert plan_packing([group], 512, 1) == [[(group,)]]
    pieces = [family for family in chain(*chain(*plan_packing([group], 512, 4)))]
    assert [len(piece.items) for piece in pieces] == [2, 2, 2, 2]


def test_the_same_input_gives_the_same_plan() -> None:
    families = laid_out([(17, [17, 40]), (3, [3, 90, 64]), (0, [9])])
    assert plan_packing(families, 96, 2) == plan_packing(list(families), 96, 2)


TOKENS = st.lists(st.integers(0, 2), min_size=2, max_size=12)


@given(st.lists(st.tuples(TOKENS, st.integers(1, 12)), min_size=1, max_size=24))
def test_families_share_what_their_sequences_begin_with_and_never_cost_tokens(
    drawn: list[tuple[list[int], int]],
) -> None:
    token_ids = [np.array(tokens, dtype=np.int32) for tokens, _ in drawn]
    masks = [np.arange(len(tokens)) >= min(start, len(tokens) - 1) for tokens, start in drawn]
    families = families_of(token_ids, masks)
    assert sorted(item for family in families for item in family.items) == list(range(len(drawn)))
    for family in families:
        shared, *rests = family.span
        assert len({token_ids[item][:shared].tobytes() for item in family.items}) == 1
        assert not any(masks[item][:shared].any() for item in family.items)
        assert [shared + rest for rest in rests] == [len(token_ids[item]) for item in family.items]
        assert (len(family.items) == 1) == (shared == 0)
        apart = sum(len(token_ids[item]) for item in family.items)
        assert len(family.items) == 1 or apart - family.size >= LEAST_SAVED * apart
    assert families == families_of(token_ids, masks)


def test_two_ways_to_ask_about_one_wrong_solution_are_a_family_and_another_problem_is_not() -> None:
    system, one, other = list(range(5)), list(range(10, 60)), list(range(60, 110))
    prompts = [[*system, *one, 1], [*system, *other, 1], [*system, *one, 2], [*system, *other, 2, 3]]
    token_ids = [np.array([*prompt, 7, 8, 9], dtype=np.int32) for prompt in prompts]
    masks = [np.arange(len(ids)) >= len(prompt) for ids, prompt in zip(token_ids, prompts, strict=True)]
    assert families_of(token_ids, masks) == [Family((0, 2), (55, 4, 4)), Family((1, 3), (55, 4, 5))]


@pytest.mark.parametrize("shared", [False, True])
def test_a_row_predicts_answer_tokens_alone_and_from_their_own_sequence(shared: bool) -> None:
    batch: list[SupervisedExample | Episode] = [*examples(9, seed=4), *episodes(8)]
    token_ids, masks = [e.token_ids for e in batch], [e.loss_mask for e in batch]
    families = families_of(token_ids, masks) if shared else alone([len(ids) for ids in token_ids])
    row = pack(token_ids, masks, families)
    laid = sum(sum(span) for span in row.spans)
    whole = sum(map(len, token_ids))
    assert len(row.token_ids_T) == len(row.position_ids_T) == laid
    assert laid < whole if shared else laid == whole
    predicted = 0
    for item, count in zip((item for family in families for item in family.items), row.counts, strict=True):
        where = row.predict_N[predicted : predicted + count]
        answer = np.flatnonzero(masks[item][1:]) + 1
        assert (row.target_N[predicted : predicted + count] == token_ids[item][answer]).all()
        assert (row.token_ids_T[where] == token_ids[item][answer - 1]).all()
        assert (row.position_ids_T[where] == answer - 1).all()
        predicted += count
    assert predicted == len(row.predict_N)


@pytest.mark.parametrize("name", ["small_llama", "smollm2"])
def test_a_shared_prompt_changes_neither_log_probs_nor_gradients(name: str, request: pytest.FixtureRequest) -> None:
    from ledex_ray.policy import Policy, RowTensors, load_lm

    policy = Policy(load_lm(request.getfixturevalue(name), "float32"))
    batch = episodes(12, seed=5)
    token_ids, masks = [e.token_ids for e in batch], [e.loss_mask for e in batch]
    families = families_of(token_ids, masks)
    order = [item for family in families for item in family.items]
    apart_row = pack([token_ids[item] for item in order], [masks[item] for item in order])
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=len(apart_row.target_N))).float()
    found = []
    for row in (RowTensors.of(apart_row), RowTensors.of(pack(token_ids, masks, families))):
        log_probs_N, _, _ = policy(row, torch.ones(len(row.target_N)))
        policy.zero_grad()
        (log_probs_N @ weights).backward()
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
    kept = torch.tensor([True] * 18 + [False] * 32 + [True] * 11)
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[~kept], after[~kept])


@pytest.mark.parametrize("name", ["small_llama", "smollm2"])
def test_a_packed_sequence_has_the_logits_that_it_has_alone(name: str, request: pytest.FixtureRequest) -> None:
    from ledex_ray.policy import RowTensors, Trunk, load_lm

    lm = load_lm(request.getfixturevalue(name), "float32").double()  # float32's sums differ by CPU: up to 2e-4
    trunk, head = Trunk(lm), lm.get_output_embeddings()
    masks = [np.ones(length, dtype=bool) for length in (19, 33, 12)]
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 90, len(mask)).astype(np.int32) for mask in masks]
    with torch.no_grad():
        packed = head(trunk.hidden(RowTensors.of(pack(sequences, masks))))
        alone = [head(trunk.hidden(RowTensors.of(pack([s], [m])))) for s, m in zip(sequences, masks, strict=True)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=0)


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
