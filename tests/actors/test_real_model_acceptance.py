"""SmolLM2-135M in bfloat16: after an update the engine is as near to transformers as a freshly loaded one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.generation import WeightsRef
from actors.rollout import GenerationRequest, RolloutGroup
from actors.weights import send_weights
from ledex_ray.config import ModelConfig, RolloutConfig
from tests.actors.helpers import Learner

pytestmark = pytest.mark.acceptance

PROMPTS = ("def add(a, b):\n", "The largest element of a list is", "for i in range(10):\n    print(", "import os\n")


@pytest.fixture(scope="module", params=["tied", "untied"])
def served(
    request: pytest.FixtureRequest, ray_session: None, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RolloutGroup, Learner]]:
    """An engine and the learner's copy of its model; untied: SmolLM2 with a head of its own, equal at the start."""
    learner = Learner(smollm2, torch.bfloat16)
    path = smollm2
    if request.param == "untied":
        path = tmp_path_factory.mktemp("untied")
        model = learner.model
        head = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.lm_head.weight = head
        model.save_pretrained(path)
        for file in smollm2.glob("token*.json"):
            (path / file.name).write_bytes(file.read_bytes())
        learner = Learner(path, torch.bfloat16)
        assert learner.model.lm_head.weight is not learner.model.model.embed_tokens.weight
    group = RolloutGroup(RolloutConfig(max_num_seqs=16), ModelConfig(dtype="bfloat16"), path)
    yield group, learner
    group.shutdown()


def mean_gap(group: RolloutGroup, learner: Learner, sequences: list[list[int]]) -> float:
    (engine,) = group.log_probs(sequences).values()
    expected = learner.log_probs(sequences, 1.0)
    return float(np.mean([np.abs(np.asarray(a) - b).mean() for a, b in zip(engine, expected, strict=True)]))


def test_updates_leave_no_gap_beyond_that_of_a_fresh_engine(
    served: tuple[RolloutGroup, Learner], smollm2: Path
) -> None:
    from transformers import AutoTokenizer

    group, learner = served
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in PROMPTS]
    requests = [GenerationRequest(str(i), ids, 2, 0.8, 1.0, 48, seed=i) for i, ids in enumerate(prompts)]
    sequences = [
        [*prompts[int(g.id)], *completion.token_ids]
        for g in group.client().generate(requests)
        for completion in g.completions
    ]
    fresh = mean_gap(group, learner, sequences)
    for version, backend in enumerate(("shm", "gloo"), start=1):
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for parameter in learner.model.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                parameter.mul_(1 + 0.03 * noise)
        stale = mean_gap(group, learner, sequences)
        receipt = send_weights(learner.source, group.engines, version, backend=backend)
        group.published(WeightsRef(version, receipt.path))
        updated = mean_gap(group, learner, sequences)
        assert stale > 3 * fresh, "the test would not see a stale engine"
        assert updated <= 1.5 * fresh, (backend, fresh, stale, updated)
