"""Policies of every family that the recipes name: our packed log-probabilities are the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ledex_ray.config import LoraConfig
from ledex_ray.errors import BadInput
from ledex_ray.packing import pack
from ledex_ray.policy import Critic, Policy, RowTensors, adapters_off, load_lm, packs, weight_views

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}),
    "mistral with a window": (
        "MistralConfig",
        {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 8},
    ),
    "starcoder2": ("Starcoder2Config", {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}),
    "starcoder": ("GPTBigCodeConfig", {**GPT, "multi_query": True}),
    "gpt2": ("GPT2Config", GPT),
    "gpt-neox": ("GPTNeoXConfig", {**SMALL, "intermediate_size": 64}),
}


def save(folder: Path, family: str, **changes: Any) -> Path:
    import transformers

    name, settings = FAMILIES[family]
    config = getattr(transformers, name)(**{**settings, **changes})
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def sequences() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(1, 90, length).astype(np.int32) for length in (21, 5, 13)]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probs_are_the_models_own(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = save(tmp_path, family)
    policy = Policy(load_lm(path, "float32"), value_head=True)
    ids = sequences()
    row = RowTensors.of(pack(ids, [np.ones(len(i), dtype=bool) for i in ids]))
    policy.train()  # dropout must be off even so
    log_probs, _, values = policy(row, torch.full((len(row.target_N),), 0.7), True)
    own = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    expected = []
    with torch.no_grad():
        for tokens in ids:
            t = torch.from_numpy(tokens).long()
            plain = torch.log_softmax(own(t[None]).logits[0, :-1] / 0.7, -1)
            expected.append(plain.gather(1, t[1:, None]).squeeze(1))
    torch.testing.assert_close(log_probs, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert not values.any(), "the value head starts at zero"
    assert packs(policy.lm)


def test_a_model_whose_logits_are_capped_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.Gemma2Config(
        **SMALL, intermediate_size=64, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="not one linear map"):
        load_lm(tmp_path, "float32")


def test_an_adapter_starts_as_the_model_and_merges_into_it(small_llama: Path) -> None:
    lm = load_lm(small_llama, "float32", lora=LoraConfig(rank=4))
    policy = Policy(lm)
    ids = sequences()
    row = RowTensors.of(pack(ids, [np.ones(len(i), dtype=bool) for i in ids]))
    temperature = torch.ones(len(row.target_N))
    with torch.no_grad():
        fresh = policy(row, temperature)[0]
        with adapters_off(lm):
            under = policy(row, temperature)[0]
        assert torch.equal(fresh, under)
        for name, parameter in lm.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
        trained = policy(row, temperature)[0]
        assert (trained - under).abs().max() > 1e-2
        merged = Policy(load_lm(small_llama, "float32"))
        merged.lm.load_state_dict({view.name: view.merged() for view in weight_views(lm)}, strict=False)
        torch.testing.assert_close(merged(row, temperature)[0], trained, atol=1e-4, rtol=1e-4)
    plain = [view.name for view in weight_views(load_lm(small_llama, "float32"))]
    assert [view.name for view in weight_views(lm)] == plain


def test_an_adapter_merges_into_weights_that_lie_the_other_way_round(tmp_path: Path) -> None:
    path = save(tmp_path, "gpt2")
    adapted, plain = load_lm(path, "float32", lora=LoraConfig(rank=4)), load_lm(path, "float32")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
        trained, before = adapted(ids).logits, plain(ids).logits
        plain.load_state_dict({view.name: view.merged() for view in weight_views(adapted)}, strict=False)
        torch.testing.assert_close(plain(ids).logits, trained, atol=1e-4, rtol=1e-4)
    assert (trained - before).abs().max() > 1e-2


def test_a_detached_value_head_leaves_the_trunk_alone(small_llama: Path) -> None:
    ids = sequences()
    row = RowTensors.of(pack(ids, [np.ones(len(i), dtype=bool) for i in ids]))
    for detach in (True, False):
        policy = Policy(load_lm(small_llama, "float32"), value_head=True, detach_value=detach)
        assert policy.value_head is not None
        torch.nn.init.normal_(policy.value_head.weight)
        policy(row, torch.ones(len(row.target_N)))[2].square().sum().backward()
        trunk = [p.grad for name, p in policy.named_parameters() if name.startswith("lm.model.layers.0")]
        assert policy.value_head.weight.grad is not None and policy.value_head.weight.grad.any()
        assert all(g is None for g in trunk) == detach


def test_a_critic_has_no_output_layer_of_its_own(small_llama: Path) -> None:
    critic = Critic(load_lm(small_llama, "float32"))
    ids = sequences()
    row = RowTensors.of(pack(ids, [np.ones(len(i), dtype=bool) for i in ids]))
    assert critic(row).shape == row.target_N.shape
    assert not [name for name, _ in critic.named_parameters() if "lm_head" in name]


def test_gradient_checkpointing_changes_nothing(small_llama: Path) -> None:
    ids = sequences()
    row = RowTensors.of(pack(ids, [np.ones(len(i), dtype=bool) for i in ids]))
    gradients = []
    for checkpointing in (False, True):
        policy = Policy(load_lm(small_llama, "float32", gradient_checkpointing=checkpointing)).train()
        policy(row, torch.ones(len(row.target_N)))[0].sum().backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)
