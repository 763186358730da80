"""One module under DeepSpeed on one rank: sharding, accumulation of any length, no step on what is not finite.

DeepSpeed owns sharding, clipping and the optimizer's state; this file fixes its loss scale to "sum over ranks and
micro-batches of what the caller gives". Not covered: what the loss is
(learner_rank.py, ppo_update.py), checkpoints on disk.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from ledex_ray.config import LearnerConfig, OptimizerConfig
from ledex_ray.planner import BUCKET_ELEMENTS


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, as every rank sees it. `loss` is the global sum; skipped where it was not finite."""

    loss: float
    grad_norm: float
    lr: float
    applied: bool


def join_group(gpus: float, seconds: float) -> torch.device:
    """This rank's device, after the process group has formed (RANK, WORLD_SIZE, MASTER_* are in the environment).

    Its collectives wait so long for the other ranks.
    """
    if gpus == 0:
        # Compiled with g++ at first use, and a killed compile blocks every later start. gloo does the same work.
        backend = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.utils.logger.setLevel(logging.WARNING)
    backend_name = "nccl" if gpus else "gloo"
    deepspeed.init_distributed(dist_backend=backend_name, timeout=timedelta(seconds=seconds), verbose=False)
    return torch.device(deepspeed.get_accelerator().current_device_name())


def wait_for_peers(seconds: float) -> None:
    """From here the collectives of every group that there is wait so long: those that DeepSpeed made, too.

    It makes them with torch's own 10 minutes (nccl) or 30 (gloo). A rank that gives up first hides which one is silent.
    """
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


class ShardedModel:
    """A trainable module, its optimizer and schedule."""

    def __init__(
        self,
        module: nn.Module,
        learner: LearnerConfig,
        optimizer: OptimizerConfig,
        *,
        bf16: bool,
        total_steps: int,
        head_lr: float | None = None,
    ) -> None:
        head = [p for name, p in module.named_parameters() if name.startswith("value_head.")]
        trunk = [p for name, p in module.named_parameters() if not name.startswith("value_head.") and p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trunk, "lr": optimizer.lr, "name": "trunk"}]
        if head:
            groups.append({"params": head, "lr": head_lr or optimizer.lr, "name": "value_head"})
        adamw = torch.optim.AdamW(
            groups, betas=optimizer.betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay, fused=True
        )
        self.engine, _, _, self._schedule = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            lr_scheduler=lambda wrapped: torch.optim.lr_scheduler.LambdaLR(wrapped, schedule(optimizer, total_steps)),
            config=deepspeed_config(learner, optimizer, bf16=bf16),
        )
        self.module = module.train()  # models load in evaluation mode, in which layers are not checkpointed
        self.world_size = dist.get_world_size()

    def step(self, losses: Sequence[Callable[[], Tensor]], *, head_alone: bool = False) -> StepResult:
        """Runs each micro-batch's forward and backward, then one update. Every rank brings the same number of losses.

        A micro-batch's loss is its share of a global sum: weights are the caller's. Not finite anywhere, loss or
        gradient: no rank steps.
        """
        total = torch.zeros(1, dtype=torch.float64)
        for index, compute in enumerate(losses):
            last = index == len(losses) - 1
            self.engine.set_gradient_accumulation_boundary(last)
            loss = compute()
            total += loss.detach().double().cpu()
            if last:
                total = all_sum(total)
                if not math.isfinite(total.item()):
                    loss = loss * math.nan  # reaches every rank's gradient, which DeepSpeed checks before it steps
            self.engine.backward(loss * self.world_size, scale_wrt_gas=False)  # DeepSpeed averages over ranks
        rate = self.engine.optimizer.param_groups[0]["lr"]
        if head_alone:
            self.engine.optimizer.param_groups[0]["lr"] = 0.0
        self.engine.step()
        applied = self.engine.was_step_applied()
        if head_alone and not applied:
            self.engine.optimizer.param_groups[0]["lr"] = rate
        norm = self.engine.get_global_grad_norm() if applied else math.nan
        return StepResult(total.item(), float(norm or 0.0), rate, applied)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, no dropout."""
        self.module.eval()
        with torch.no_grad():
            yield
        self.module.train()


def freeze(module: nn.Module, learner: LearnerConfig, *, bf16: bool, device: torch.device) -> Callable[..., Any]:
    """A frozen module's forward: sharded under ZeRO-3, brought to the device and back under offload, else resident."""
    module.eval().requires_grad_(False)
    if learner.zero_stage == 3:
        config = deepspeed_config(learner, OptimizerConfig(), bf16=bf16)
        engine, *_ = deepspeed.initialize(model=module, config=config)
        engine.eval()
        return engine
    if not (learner.offload and device.type != "cpu"):
        return module.to(device)

    def visit(*args: Any, **kwargs: Any) -> Any:
        module.to(device)
        result = module(*args, **kwargs)
        module.to("cpu")
        return result

    return visit


def schedule(optimizer: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Step (from 0) -> share of the learning rate: linear warm-up, then constant, cosine or linear to 0."""

    def share(step: int) -> float:
        if step < optimizer.warmup_steps:
            return (step + 1) / optimizer.warmup_steps
        if optimizer.schedule == "constant":
            return 1.0
        left = max(total_steps - optimizer.warmup_steps, 1)
        done = min((step - optimizer.warmup_steps) / left, 1.0)
        return 0.5 * (1 + math.cos(math.pi * done)) if optimizer.schedule == "cosine" else 1 - done

    return share


def deepspeed_config(learner: LearnerConfig, optimizer: OptimizerConfig, *, bf16: bool) -> dict[str, Any]:
    """What DeepSpeed is told. Gradients accumulate and travel in fp32 whatever the model's precision."""
    bucket = BUCKET_ELEMENTS["gpu" if learner.gpus else "cpu"]
    zero: dict[str, Any] = {
        "stage": learner.zero_stage,
        "overlap_comm": learner.gpus > 0,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if learner.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": learner.gpus > 0}
        if learner.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": learner.gpus > 0}
    if learner.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    return {
        "train_micro_batch_size_per_gpu": 1,
        # The real number varies by step (set_gradient_accumulation_boundary). With 1, offload would drop all but the
        # last micro-batch: it accumulates only where this says that there is something to accumulate.
        "gradient_accumulation_steps": 2 if learner.offload else 1,
        "zero_optimization": zero,
        "bf16": {"enabled": bf16, "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": optimizer.clip_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, on every rank."""
    moved = tensor.to(deepspeed.get_accelerator().current_device_name())
    dist.all_reduce(moved)
    return moved.to(tensor.device)


def all_gather(value: Any) -> list[Any]:
    """Every rank's value, by rank."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
