"""A causal LM of transformers that answers packed rows, with a value head, LoRA, and its weights under their own names.

Covered: any decoder that transformers loads, base models without a chat template included; a value head on the trunk
or a critic of its own; rows of several sequences in which no token sees another sequence. Logits are computed at loss
positions alone. Not covered: training (actors/), tokenizers and prompts, multimodal models.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from ledex_ray.config import LoraConfig
from ledex_ray.errors import BadInput
from ledex_ray.packed_attention import PACKED_ATTENTION
from ledex_ray.packing import Family, PackedRow, Span, pack
from ledex_ray.token_log_probs import TokenLogProbHead

log = logging.getLogger(__name__)


class ValueHead(nn.Module):
    """A zero-initialised linear head on the last hidden state, computed in fp32."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        return F.linear(hidden_NH.float(), self.weight.float(), self.bias.float()).squeeze(-1)


@dataclass(frozen=True, eq=False)
class RowTensors:
    """A `PackedRow` on the model's device."""

    token_ids_1T: Tensor
    position_ids_1T: Tensor
    spans: tuple[Span, ...]
    predict_N: Tensor
    target_N: Tensor
    counts: tuple[int, ...]  # predictions of each sequence

    @classmethod
    def of(cls, row: PackedRow, device: torch.device | str = "cpu") -> RowTensors:
        return cls(
            torch.from_numpy(row.token_ids_T).to(device)[None],
            torch.from_numpy(row.position_ids_T).to(device)[None],
            row.spans,
            torch.from_numpy(row.predict_N).to(device),
            torch.from_numpy(row.target_N).to(device),
            row.counts,
        )


class Trunk(nn.Module):
    """What policy and critic share: a causal LM whose hidden states at loss positions are asked for by packed row."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm

    def hidden(self, row: RowTensors) -> Tensor:
        """Last hidden states [N, H] of the predicting tokens."""
        kwargs: dict[str, Any] = {}
        if self.lm.config._attn_implementation == PACKED_ATTENTION:
            kwargs["spans"] = row.spans
        elif self.lm.config._attn_implementation.startswith("flash"):
            lengths = [length for _, length in row.spans]  # each alone: this kernel lays a prompt for each answer
            ends = torch.tensor((0, *lengths), device=row.token_ids_1T.device).cumsum(0).to(torch.int32)
            longest = max(lengths)
            kwargs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
        hidden_1TH = self.lm.base_model(
            input_ids=row.token_ids_1T,
            position_ids=row.position_ids_1T,
            attention_mask=None,
            use_cache=False,
            **kwargs,
        ).last_hidden_state
        return hidden_1TH[0, row.predict_N]


class Policy(Trunk):
    """Causal LM plus value head; answers packed rows with log-probabilities, entropies and values."""

    def __init__(self, lm: PreTrainedModel, *, value_head: bool = False, detach_value: bool = False) -> None:
        super().__init__(lm)
        self.value_head = ValueHead(lm.config.hidden_size) if value_head else None
        self.detach_value = detach_value

    def forward(
        self,
        row: RowTensors,
        temperature_N: Tensor,
        with_entropy: bool = False,
        values_alone: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(log-probabilities, entropies, values), each [N] in fp32 or None. `values_alone` trains the head alone."""
        if values_alone:
            assert self.value_head is not None
            with torch.no_grad():
                hidden_NH = self.hidden(row)
            return None, None, self.value_head(hidden_NH)
        hidden_NH = self.hidden(row)
        head = self.lm.get_output_embeddings()
        log_probs_N, entropy_N = head(hidden_NH, row.target_N, temperature_N, with_entropy)
        values_N = None
        if self.value_head is not None:
            values_N = self.value_head(hidden_NH.detach() if self.detach_value else hidden_NH)
        return log_probs_N, entropy_N, values_N


class Critic(Trunk):
    """A separate critic: its own trunk and a value head."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__(lm)
        lm.set_output_embeddings(nn.Identity())
        self.value_head = ValueHead(lm.config.hidden_size)

    def forward(self, row: RowTensors) -> Tensor:
        """Values [N] in fp32."""
        return self.value_head(self.hidden(row))


def load_lm(
    path: Path | str,
    dtype: str,
    *,
    device: str = "cpu",
    lora: LoraConfig | None = None,
    gradient_checkpointing: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The causal LM in a directory, ready for `Policy`: packed attention, its head replaced, adapters injected.

    A model whose attention cannot be packed keeps its own (`packs(lm)` is then False: one sequence a row). Raises
    BadInput for a model whose logits are not a linear map of its last hidden state.
    """
    flash = device.startswith("cuda") and is_flash_attn_2_available()
    options = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, **options)
    lm.config.use_cache = False
    _without_dropout(lm)
    linear = lm.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise BadInput(str(path), "has no linear output layer", given=type(linear).__name__)
    own = lm.config._attn_implementation
    reference = _probe_logits(lm)
    lm.set_output_embeddings(TokenLogProbHead.over(linear))
    if not _packs_exactly(lm, PACKED_ATTENTION, reference):
        log.warning("model %s: attention cannot be packed, one sequence a row", path)
        if not _packs_exactly(lm, own, reference, together=False):
            raise BadInput(str(path), "computes logits that are not one linear map of its last hidden state")
    elif flash:
        lm.set_attn_implementation("flash_attention_2")
    if lora is not None:
        add_lora(lm, lora)
    if gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    return lm


def _without_dropout(lm: PreTrainedModel) -> None:
    """New and old log-probabilities must be of one policy. Attention keeps its rate as a number, under two names."""
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def packs(lm: PreTrainedModel) -> bool:
    """Whether rows of several sequences are exact for this model."""
    return lm.config._attn_implementation in (PACKED_ATTENTION, "flash_attention_2")


def shares_prompts(lm: PreTrainedModel) -> bool:
    """Whether a prompt with several answers may be laid once in such a row."""
    return bool(lm.config._attn_implementation == PACKED_ATTENTION)


_PROMPT = 4
_PAIR = Family((1, 2), (_PROMPT, 5, 2))
_PROBE = tuple(np.array(ids, dtype=np.int32) for ids in ([1, 2, 3, 4, 5], range(3, 12), [3, 4, 5, 6, 14, 13]))
"""A sequence, and two that share a prompt."""


@torch.no_grad()
def _probe_logits(lm: PreTrainedModel) -> list[Tensor]:
    lm.eval()
    return [lm(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).logits[0].float() for ids in _PROBE]


@torch.no_grad()
def _packs_exactly(lm: PreTrainedModel, implementation: str, reference: list[Tensor], *, together: bool = True) -> bool:
    """Whether our path gives the model's own logits, and for `together` leaves a neighbour's bit-equal."""
    try:
        lm.set_attn_implementation(implementation)
    except ValueError:
        return False
    trunk, head = Trunk(lm), lm.get_output_embeddings()
    other, *pair = _PROBE
    rows = [[other, *pair], [other[::-1].copy(), *pair]] if together else [[ids] for ids in _PROBE]
    logits = []
    for row in rows:
        masks = [np.arange(len(ids)) >= (1 if len(ids) == len(other) else _PROMPT) for ids in row]  # loss from there on
        families = [Family((0,), (0, len(other))), _PAIR] if together else None
        logits.append(head(trunk.hidden(RowTensors.of(pack(row, masks, families)))).float())
    expected = torch.cat([reference[0][:-1], *(logits_LV[_PROMPT - 1 : -1] for logits_LV in reference[1:])])
    got = logits[0] if together else torch.cat(logits)
    close = float((got - expected).norm() / expected.norm()) < (1e-4 if lm.dtype == torch.float32 else 3e-2)
    start = len(other) - 1
    return close and (not together or bool(torch.equal(logits[0][start:], logits[1][start:])))


def add_lora(lm: PreTrainedModel, lora: LoraConfig) -> None:
    """Injects a fresh adapter (the policy starts unchanged: B is zero) and freezes everything else."""
    import peft

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    peft.inject_adapter_in_model(settings, lm)
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
    # Checkpointed layers need an input that requires a gradient, which a frozen embedding does not give.
    lm.enable_input_require_grads()


@contextmanager
def adapters_off(lm: PreTrainedModel) -> Iterator[None]:
    """The model under its adapters: the frozen policy that training started from."""
    layers = [module for module in lm.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@dataclass(frozen=True, eq=False)
class WeightView:
    """One tensor under its Hugging Face name. `parts` must be gathered (ZeRO-3) while `merged` runs."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: tuple[nn.Parameter, ...]  # the weight, and where it is adapted A and B
    scale: float = 0.0
    transposed: bool = False  # the weight is [in, out] (GPT-2's Conv1D)

    def merged(self) -> Tensor:
        """The tensor as it stands now, its adapter added."""
        weight, *adapter = (part.detach() for part in self.parts)
        if not adapter:
            return weight
        a, b = (part.float() for part in adapter)
        change = self.scale * (b @ a)
        return (weight.float() + (change.T if self.transposed else change)).to(weight.dtype)


def weight_views(lm: PreTrainedModel) -> list[WeightView]:
    """Every parameter once (ties left out), adapters merged, in a fixed order and under the checkpoint's names."""
    views = []
    layers = {name: module for name, module in lm.named_modules() if hasattr(module, "lora_A")}
    for name, parameter in lm.named_parameters():
        if ".lora_" in name:
            continue
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        parts: tuple[nn.Parameter, ...] = (parameter,)
        scale, transposed = 0.0, False
        if name.endswith(".base_layer.weight"):
            layer = layers[name.removesuffix(".base_layer.weight")]
            parts = (parameter, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
            scale, transposed = layer.scaling["default"], layer.fan_in_fan_out
        plain = name.replace(".base_layer.", ".")
        views.append(WeightView(plain, parameter.dtype, shape, parts, scale, transposed))
    return views
