"""How much memory a recipe takes on each kind of actor, before anything is started. Arithmetic alone, no torch.

Covered: learner ranks (weights, gradients, optimizer, activations by token budget, logits, reference, critic), rollout
engines (weights, KV cache), the encoder, sandboxes; the largest token budget that fits; what to change where nothing
does. Not covered: time, mixture-of-experts models (refused), activations of sequences longer than the token budget.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ledex_ray.config import LearnerConfig, Recipe, SandboxConfig
from ledex_ray.errors import BadInput
from ledex_ray.placement import ROUNDING, phases

Device = Literal["cpu", "gpu"]

GIB = 1 << 30
BUCKET_ELEMENTS: dict[Device, int] = {"cpu": 1 << 24, "gpu": 200_000_000}
"""DeepSpeed's reduce and gather buckets, as the learner sets them."""

# Measured: a process that has imported everything and holds no model.
RUNTIME_BYTES: dict[tuple[str, Device], int] = {
    ("learner", "cpu"): int(0.80 * GIB),
    ("learner", "gpu"): int(0.90 * GIB),  # CUDA context and NCCL; never measured
    ("rollout", "cpu"): int(1.60 * GIB),
    ("rollout", "gpu"): int(1.50 * GIB),  # never measured
    ("embedder", "cpu"): int(0.75 * GIB),
    ("sandbox", "cpu"): int(0.20 * GIB),
}

CPU_ALLOCATOR = 0.12
"""Measured: what a rank's peak is above the sum of its parts (0.09 to 0.18), pieces that were freed and stay mapped."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""How configurations call the number of experts in a layer."""

_STRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Scalings of RoPE under which a configuration holds the stretched number of positions, as vLLM reads it."""


@dataclass(frozen=True)
class ModelShape:
    """What of a decoder decides its memory."""

    parameters: int
    layers: int
    hidden: int
    heads: int
    attention: int  # heads x head size
    key_value: int  # key-value heads x head size
    intermediate: int
    vocabulary: int
    gated: bool  # three matrices in a feed-forward layer, not two
    context: int

    def cache_bytes(self, item: int) -> int:
        """Of the KV cache a token, with so many bytes a number."""
        return 2 * self.layers * self.key_value * item


@dataclass(frozen=True)
class Part:
    """One reason why an actor needs memory."""

    name: str
    bytes: int


@dataclass(frozen=True)
class ActorPlan:
    """One kind of actor: how many, on what, and what each holds at its peak."""

    kind: str
    count: int
    device: Device
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class Plan:
    """A whole recipe on given GPUs; `advice` is empty iff it fits."""

    actors: tuple[ActorPlan, ...]
    gpus_needed: float
    token_budget: int | None  # largest tokens_per_micro_batch that fits; 0 where none does, None where nothing learns
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.advice


def read_shape(directory: Path) -> ModelShape:
    """The shape of a Hugging Face directory; parameters counted from its weights where they are there.

    Raises BadInput for a mixture of experts: what a learner keeps of such a layer is not that of a dense one.
    """
    config, where = _read_config(directory), str(directory / "config.json")
    _check_dense(_of_text(config), where)
    counted = sum(_count_parameters(file) for file in sorted(directory.glob("*.safetensors")))
    return shape_of(config, counted or None, where=where)


def _check_dense(config: Mapping[str, Any], where: str) -> None:
    config = {**config, **(config.get("ffn_config") or {})}  # where DBRX has them
    for name in _EXPERTS:
        if config.get(name) not in (None, 0, 1):
            raise BadInput(where, f"field '{name}': a mixture of experts", given=config[name], expected="a dense model")


def read_context(directory: Path) -> int:
    """The longest sequence that the model of a Hugging Face directory takes; 0 where its configuration does not say."""
    return _context(_of_text(_read_config(directory)))


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), "is no readable model configuration") from error
    if not isinstance(config, dict):
        raise BadInput(str(path), "is no readable model configuration")
    return config


def shape_of(config: Mapping[str, Any], parameters: int | None = None, where: str = "config.json") -> ModelShape:
    """The shape that a transformers configuration describes; parameters by formula where they are not given.

    Of a model that reads more than text it is the decoder's. Raises BadInput where a size is missing.
    """
    config = _of_text(config)

    def first(*names: str) -> int:
        for name in names:
            if config.get(name):
                return int(config[name])
        raise BadInput(where, f"has none of {', '.join(names)}")

    hidden = first("hidden_size", "n_embd", "d_model")
    layers = first("num_hidden_layers", "n_layer", "num_layers")
    heads = first("num_attention_heads", "n_head")
    head = int(config.get("head_dim") or hidden // heads)
    kv_heads = 1 if config.get("multi_query") else int(config.get("num_key_value_heads") or heads)
    intermediate = int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    vocabulary = first("vocab_size")
    plain = {"gpt2", "gpt_bigcode", "gpt_neox", "starcoder2", "opt", "codegen", "gptj", "phi"}
    gated = config.get("model_type") not in plain
    shape = ModelShape(
        parameters=0,
        layers=layers,
        hidden=hidden,
        heads=heads,
        attention=heads * head,
        key_value=kv_heads * head,
        intermediate=intermediate,
        vocabulary=vocabulary,
        gated=gated,
        context=_context(config),
    )
    if parameters is None:
        per_layer = hidden * (2 * shape.attention + 2 * shape.key_value) + (2 + gated) * hidden * intermediate
        tables = 1 if config.get("tie_word_embeddings", True) else 2
        parameters = layers * (per_layer + 2 * hidden) + tables * vocabulary * hidden + hidden
    return replace(shape, parameters=parameters)


def _of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What describes the decoder: a model that reads more than text (Gemma 3, Llama 4) has it in a part of its own."""
    return {**config, **(config.get("text_config") or {})}


def _context(config: Mapping[str, Any]) -> int:
    """As vLLM derives it: most kinds of scaling stretch the positions, of some the number is the stretched one."""
    positions = config.get("max_position_embeddings") or config.get("n_positions") or 0
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    stretched = (rope.get("rope_type") or rope.get("type")) in _STRETCHED
    factor = 1 if stretched else rope.get("factor") or 1
    return int(max(positions * factor, config.get("model_max_length") or 0))


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Trainable parameters of adapters on every linear layer."""
    pairs = [
        (shape.hidden, shape.attention),
        (shape.hidden, shape.key_value),
        (shape.hidden, shape.key_value),
        (shape.attention, shape.hidden),
    ] + [(shape.hidden, shape.intermediate)] * (2 + shape.gated)
    return shape.layers * rank * sum(a + b for a, b in pairs)


def learner_plan(
    recipe: Recipe, shape: ModelShape, *, stage: Literal["sft", "ppo"], precision: str, device: Device
) -> ActorPlan:
    """One learner rank at its peak.

    Model states follow DeepSpeed's ZeRO (Rajbhandari et al., 2020) as this learner sets it: fp32 gradients and master
    weights whatever the precision. Activations are what autograd keeps of a Llama-like layer.
    """
    learner = recipe.learner
    item = 2 if precision == "bfloat16" else 4
    trainable = lora_parameters(shape, learner.lora.rank) if learner.lora else shape.parameters
    frozen = shape.parameters if learner.lora else 0
    parts = [
        Part("runtime", RUNTIME_BYTES["learner", device]),
        *_model_states(learner, trainable, frozen, item, device),
    ]
    if stage == "ppo":
        own_adapter = learner.lora is not None
        if recipe.ppo.kl_coef > 0 and not own_adapter:
            sharded = learner.ranks if learner.zero_stage == 3 else 1
            away = learner.offload and device == "gpu" and learner.zero_stage < 3
            parts.append(Part("reference", 0 if away else shape.parameters * item // sharded))
        if recipe.ppo.separate_critic and recipe.ppo.algorithm == "ppo":
            critic = sum(p.bytes for p in _model_states(learner, shape.parameters, 0, item, device))
            parts.append(Part("critic", critic))
    tokens = learner.tokens_per_micro_batch
    parts.append(Part("activations", tokens * _activation_bytes(learner, shape, item)))
    predicted = tokens if stage == "sft" else tokens * 2 // 3  # prompts carry no loss
    parts.append(Part("logits", 2 * predicted * shape.vocabulary * item))
    if device == "cpu":
        parts.append(Part("kept by the allocator", int(CPU_ALLOCATOR * sum(part.bytes for part in parts))))
    return ActorPlan(f"learner ({stage})", learner.ranks, device, tuple(parts), f"{tokens} tokens a micro-batch")


def rollout_plan(recipe: Recipe, shape: ModelShape, *, precision: str, device: Device, gpu_memory: int) -> ActorPlan:
    """One engine worker: weights and KV cache; on a GPU, the cache takes what `gpu_memory_utilization` leaves."""
    item = 2 if precision == "bfloat16" else 4
    tensor_parallel = recipe.rollout.tensor_parallel
    weights = shape.parameters * item // tensor_parallel
    a_token = shape.cache_bytes(item) // tensor_parallel
    runtime = RUNTIME_BYTES["rollout", device]
    if device == "cpu":
        cache = int(recipe.rollout.kv_cache_gb * GIB)
        weights += shape.vocabulary * shape.hidden * item  # the prepacked copy of a tied head
    else:
        cache = max(0, int(recipe.rollout.gpu_memory_utilization * gpu_memory) - weights - runtime)
    note = f"cache of {cache // max(a_token, 1):,} tokens"
    parts = (Part("runtime", runtime), Part("weights", weights), Part("KV cache", cache))
    return ActorPlan("rollout", recipe.rollout.actors * tensor_parallel, device, parts, note)


def largest_token_budget(
    recipe: Recipe, shape: ModelShape, *, stage: Literal["sft", "ppo"], precision: str, device: Device, memory: int
) -> int:
    """The largest multiple of 64 tokens whose learner rank fits in `memory`; 0 where not even 64 do."""

    def needed(tokens: int) -> int:
        learner = recipe.learner.model_copy(update={"tokens_per_micro_batch": tokens})
        changed = recipe.model_copy(update={"learner": learner})
        return learner_plan(changed, shape, stage=stage, precision=precision, device=device).bytes

    fixed = needed(0)
    slope = needed(64) - fixed
    return max(0, (memory - fixed) // slope * 64)


def plan(recipe: Recipe, shape: ModelShape, *, precision: str, gpus: int, gpu_memory_gb: float, cores: int = 1) -> Plan:
    """Every kind of actor of a recipe, and what to change where it does not fit on `gpus` GPUs of that size.

    `gpus` 0 plans a CPU machine of so many `cores`, `gpu_memory_gb` then being its main memory, shared by all actors.
    """
    device: Device = "gpu" if gpus else "cpu"
    memory = int(gpu_memory_gb * GIB)
    stages: list[Literal["sft", "ppo"]] = [s for s in ("sft", "ppo") if s in recipe.stages]
    learners = [learner_plan(recipe, shape, stage=s, precision=precision, device=device) for s in stages]
    rollout = rollout_plan(recipe, shape, precision=precision, device=device, gpu_memory=memory)
    sandboxes = ActorPlan(
        "sandbox",
        _sandboxes(recipe.sandbox, None if gpus else cores),
        "cpu",
        (Part("runtime", RUNTIME_BYTES["sandbox", "cpu"]), Part("candidate", recipe.sandbox.memory_mb << 20)),
        "one a core" if recipe.sandbox.actors is None else "",
    )
    encoder = 22_700_000 if recipe.reward.encoder == "minilm" else 355_000_000
    parts = (Part("runtime", RUNTIME_BYTES["embedder", "cpu"]), Part("weights", encoder * 4))
    embedder = ActorPlan("embedder", 1, "cpu", parts)
    published = _published_weights(recipe, shape, precision, device)
    actors = (*learners, rollout, embedder, sandboxes, *published)

    needed = 0.0
    if device == "cpu":
        room = memory - rollout.bytes * rollout.count - embedder.bytes - sandboxes.bytes * sandboxes.count
        room -= sum(weights.bytes for weights in published)
        room //= recipe.learner.ranks
    else:
        room = memory - _workers_beside_a_rank(recipe) * rollout.bytes
        needed = max(
            (
                sum(bundle.get("GPU", 0.0) for demand in demands for bundle in demand.bundles)
                for demands in phases(recipe).values()
            ),
            default=0.0,
        )
    budgets = [
        largest_token_budget(recipe, shape, stage=s, precision=precision, device=device, memory=room) for s in stages
    ]
    budget = min(budgets, default=None)
    return Plan(actors, needed, budget, tuple(_advice(recipe, shape, actors, budget, needed, gpus, memory)))


def _sandboxes(config: SandboxConfig, cores: int | None) -> int:
    """The most of them on a CPU machine of so many cores; the least where nodes of their own hold them (None)."""
    return config.actors or 1 if cores is None else config.max_actors or config.actors or cores


def _published_weights(recipe: Recipe, shape: ModelShape, precision: str, device: Device) -> list[ActorPlan]:
    """The newest weights as the engines read them, and those before, as files in shared memory."""
    backend = recipe.rollout.weight_transfer
    if "ppo" not in recipe.stages or (backend != "shm" and (backend != "auto" or device == "gpu")):
        return []
    item = 2 if precision == "bfloat16" else 4
    files = Part("two versions in shared memory", 2 * shape.parameters * item)
    return [ActorPlan("published weights", 1, "cpu", (files,), "none where gloo sends them: on several nodes")]


def _workers_beside_a_rank(recipe: Recipe) -> int:
    """How many engine workers at most share the GPU of a learner rank that takes a part of one."""
    learner, rollout = recipe.learner.gpus, recipe.rollout.gpus
    if not (0 < learner < 1 and 0 < rollout < 1):
        return 0
    return min(int((1 - learner + ROUNDING) / rollout), recipe.rollout.actors * recipe.rollout.tensor_parallel)


def _model_states(learner: LearnerConfig, trainable: int, frozen: int, item: int, device: Device) -> list[Part]:
    bucket = min(BUCKET_ELEMENTS[device], trainable)
    ranks, stage = learner.ranks, learner.zero_stage
    weights = (trainable + frozen) * item // (ranks if stage == 3 else 1)
    optimizer = 12 * trainable // ranks  # master weights, momentum, variance: fp32
    accumulated = 4 * trainable // (ranks if stage >= 2 else 1)
    transient = item * trainable if stage < 3 else 2 * item * bucket
    on_device = not (learner.offload and device == "gpu")
    return [
        Part("weights", weights),
        Part("optimizer", optimizer if on_device else 0),
        Part("gradients", accumulated + transient if on_device else transient),
        Part("buckets", 2 * 4 * bucket),
    ]


def _activation_bytes(learner: LearnerConfig, shape: ModelShape, item: int) -> int:
    """Bytes a token that autograd keeps: norms (fp32 copy, two of `item`), attention (five), feed-forward (four)."""
    upcast = 4 if item == 2 else 8
    norms = 2 * shape.hidden * (upcast + 2 * item)
    attention = 5 * shape.attention * item
    feed_forward = (4 if shape.gated else 2) * shape.intermediate * item
    layer = norms + attention + feed_forward
    if learner.lora is not None:
        layer += 4 * learner.lora.rank * item * 7
    if learner.gradient_checkpointing:
        return shape.layers * shape.hidden * item + 2 * layer
    return shape.layers * layer + shape.hidden * (4 + 2 * item)


def _advice(
    recipe: Recipe,
    shape: ModelShape,
    actors: tuple[ActorPlan, ...],
    budget: int | None,
    needed: float,
    gpus: int,
    memory: int,
) -> list[str]:
    learner, advice = recipe.learner, []
    if gpus and needed > gpus:
        share = " or let both share it: learner.gpus=0.5 rollout.gpus=0.5" if gpus == 1 else ""
        advice.append(f"needs {needed:g} GPUs, there are {gpus}: lower learner.ranks or rollout.actors{share}")
    if budget is not None and budget < learner.tokens_per_micro_batch:
        if budget >= recipe.model.max_length:
            advice.append(f"set learner.tokens_per_micro_batch={budget}: that is the most that fits")
        else:
            steps = []
            if _workers_beside_a_rank(recipe):
                steps.append("a lower rollout.gpu_memory_utilization")
            if not learner.gradient_checkpointing:
                steps.append("learner.gradient_checkpointing=true")
            if learner.zero_stage < 3 and (learner.ranks > 1 or gpus > learner.ranks):
                steps.append("learner.zero_stage=3")
            if gpus > needed:
                steps.append(f"learner.ranks={int(learner.ranks + gpus - needed)}")
            if not learner.offload and gpus:
                steps.append("learner.offload=true")
            if learner.lora is None:
                steps.append("learner.lora={rank: 16}")
            if budget >= 64:
                steps.append(f"model.max_length={budget}")
            advice.append("the learner does not fit; try, in this order: " + ", ".join(steps or ["a smaller model"]))
    for actor in actors:
        cache = next((part.bytes for part in actor.parts if part.name == "KV cache"), None)
        if cache is not None and actor.device == "gpu":
            a_token = shape.cache_bytes(2) // recipe.rollout.tensor_parallel
            if cache < a_token * recipe.model.max_length:
                wider = f"rollout.tensor_parallel={2 * recipe.rollout.tensor_parallel}"
                advice.append(f"the rollout engine has no room for one sequence: {wider}")
    if not gpus and sum(a.bytes * a.count for a in actors if not a.kind.startswith("learner")) > memory:
        keys = "rollout.kv_cache_gb, sandbox.actors or sandbox.memory_mb"
        advice.append(f"engines and sandboxes alone exceed this machine's memory: lower {keys}")
    return advice


def _count_parameters(path: Path) -> int:
    """Elements of all tensors that a safetensors file's header lists."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for axis in entry["shape"]:
                size *= axis
            total += size
    return total
