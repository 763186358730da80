"""One rank of the learner gang: what runs inside each learner process (learner.py holds it in a Ray actor).

Covered: SFT steps, the PPO update, log-probabilities, weights under their Hugging Face names, this rank's checkpoint
files. Every method is called on all ranks with the same arguments. Not covered: the gang's life, and which checkpoint
counts (checkpoint.py).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from numpy.typing import NDArray
from torch import Tensor

from actors import node_copies, rank_checkpoint
from actors.checkpoint import FileRecord
from actors.failures import NonFiniteSteps
from actors.learner_weights import GatheredWeights, write_model
from actors.micro_batches import MicroBatch, Packer, Sequences
from actors.places import place
from actors.ppo_update import PPOUpdate, Reference
from actors.sharded_model import ShardedModel, all_sum, freeze, join_group, wait_for_peers
from actors.weight_file import SharedFolder
from actors.weights import TransferReceipt, send_weights
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig, PPOConfig
from ledex_ray.episodes import Episode, SupervisedExample
from ledex_ray.policy import Critic, Policy, RowTensors, adapters_off, load_lm, packs, shares_prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnerSpec:
    """What every rank is built from; a rebuilt gang gets the same."""

    learner: LearnerConfig
    model: ModelConfig
    precision: str  # bfloat16 or float32
    model_path: str  # or URL, as `reference_path`
    reference_path: str
    optimizer: OptimizerConfig
    total_steps: int
    seed: int
    ppo: PPOConfig | None = None
    separated: bool = False


class LearnerRank:
    """A rank; build it in a process of its own, with RANK, LOCAL_RANK and WORLD_SIZE in the environment."""

    def __init__(self, spec: LearnerSpec) -> None:
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        transformers.utils.logging.disable_progress_bar()
        self.spec = spec
        self.rank = int(os.environ["RANK"])
        self.skipped_in_a_row = 0

    def pid(self) -> int:
        """This process, for logs and for tests that end it."""
        return os.getpid()

    def endpoint(self) -> tuple[str, int]:
        """Where the others can meet this rank."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def build(self, address: str, port: int) -> dict[str, float]:
        """Joins the group and loads everything; sizes in bytes and parameters."""
        os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        spec, learner, ppo = self.spec, self.spec.learner, self.spec.ppo
        # The driver's patience ends first: it can tell which rank hangs.
        patience = 2 * max(learner.ready_seconds, learner.deadline_seconds)
        device = join_group(learner.gpus, patience)
        torch.manual_seed(spec.seed)  # the same adapters and heads on every rank
        has_value = ppo is not None and ppo.algorithm == "ppo"
        separate = has_value and ppo is not None and ppo.separate_critic
        lm = self._load(spec.model_path, trainable=True, device=device)
        policy = Policy(lm, value_head=has_value and not separate, detach_value=ppo is not None and ppo.detach_value)
        bf16 = spec.precision == "bfloat16"
        head_lr = ppo.value_lr if ppo is not None else None
        common: dict[str, Any] = {"bf16": bf16, "total_steps": spec.total_steps, "head_lr": head_lr}
        self.lm = lm
        self.policy = ShardedModel(policy, learner, spec.optimizer, **common)
        self.critic: ShardedModel | None = None
        if separate:
            critic = Critic(self._load(spec.model_path, trainable=True, device=device, adapters=False))
            self.critic = ShardedModel(critic, learner, spec.optimizer, **common)
        alone = None if packs(lm) else 1
        self.packer = Packer(learner.tokens_per_micro_batch, alone, device, share_prompts=shares_prompts(lm))
        self.ppo: PPOUpdate | None = None
        if ppo is not None:
            reference = self._reference(device, bf16) if ppo.kl_coef > 0 else None
            self.ppo = PPOUpdate(ppo, self.policy, self.critic, reference, self.packer, separated=spec.separated)
        wait_for_peers(patience)
        dist.barrier()
        trainable = sum(getattr(p, "ds_numel", p.numel()) for p in policy.parameters() if p.requires_grad)
        return {"trainable_parameters": float(trainable)}

    def _load(self, path: str, *, trainable: bool, device: torch.device, adapters: bool = True) -> Any:
        learner = self.spec.learner
        lora = learner.lora if trainable and adapters else None
        if lora is not None and self.spec.ppo is not None:
            lora = lora.model_copy(update={"dropout": 0.0})  # new and old log-probabilities must be of one policy
        return load_lm(
            str(node_copies.model_folder(path)),
            self.spec.precision,
            device=device.type,
            lora=lora,
            gradient_checkpointing=learner.gradient_checkpointing and trainable,
            trust_remote_code=self.spec.model.trust_remote_code,
        )

    def _reference(self, device: torch.device, bf16: bool) -> Reference:
        """The frozen policy: the model under a fresh adapter where that is it, else a copy of its own."""
        if self.spec.learner.lora is not None and self.spec.reference_path == self.spec.model_path:

            def under_adapter(row: RowTensors, temperature_N: Tensor) -> Tensor:
                with adapters_off(self.lm):
                    return self.policy.engine(row, temperature_N)[0]

            return under_adapter
        copy = Policy(self._load(self.spec.reference_path, trainable=False, device=device))
        forward = freeze(copy, self.spec.learner, bf16=bf16, device=device)
        return lambda row, temperature_N: forward(row, temperature_N)[0]

    # Supervised fine-tuning

    def sft_step(self, examples: Sequence[SupervisedExample]) -> dict[str, float]:
        """One optimizer step on the global batch: the mean over all answer tokens of -log p."""
        started = time.monotonic()
        result = self.policy.step(self._sft_losses(examples))
        self.skipped_in_a_row = 0 if result.applied else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= 3:
            raise NonFiniteSteps([example.id for example in examples])
        return {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": result.lr,
            "tokens": float(sum(len(e.token_ids) for e in examples)),
            "answer_tokens": float(sum(e.loss_mask[1:].sum() for e in examples)),
            "seconds": time.monotonic() - started,
            "skipped": float(not result.applied),
        }

    def sft_loss(self, examples: Sequence[SupervisedExample]) -> float:
        """Mean of -log p over the answer tokens of all examples, nothing trained."""
        with self.policy.evaluating():
            total = torch.stack([compute().double().cpu() for compute in self._sft_losses(examples)]).sum()
        return float(all_sum(total[None]))

    def _sft_losses(self, examples: Sequence[SupervisedExample]) -> list[Callable[[], Tensor]]:
        sequences = Sequences([e.token_ids for e in examples], [e.loss_mask for e in examples])
        weights = [1.0 / sum(sequences.counts)] * len(sequences)

        def loss_of(share: MicroBatch) -> Tensor:
            weights_N = share.spread(weights)
            log_probs_N, _, _ = self.policy.engine(share.row, torch.ones_like(weights_N))
            return -(log_probs_N * weights_N).sum()

        return [lambda share=share: loss_of(share) for share in self.packer.share(sequences)]  # type: ignore[misc]

    # Policy updates

    def ppo_update(self, episodes: Sequence[Episode], iteration: int) -> dict[str, float]:
        """See PPOUpdate.run."""
        assert self.ppo is not None, "this learner was built without ppo"
        metrics = self.ppo.run(episodes, iteration)
        if 0 < self.spec.learner.gpus < 1:
            torch.cuda.empty_cache()  # the engine on this GPU wakes, and needs what PyTorch would keep
        return metrics

    def log_probs(self, sequences: Sequence[NDArray[np.int32]], temperature: float) -> list[NDArray[np.float32]]:
        """[L - 1] for each sequence: of token t + 1 given those up to t (on rank 0; nothing on the others)."""
        batch = Sequences(list(sequences), [np.ones(len(ids), dtype=bool) for ids in sequences])

        def visit(share: MicroBatch) -> dict[str, Tensor]:
            temperature_N = torch.full((len(share.row.target_N),), temperature, device=self.packer.device)
            return {"log_probs": self.policy.engine(share.row, temperature_N)[0]}

        with self.policy.evaluating():
            found = self.packer.map(batch, visit)
        return [values.numpy() for values in found["log_probs"]] if self.rank == 0 else []

    # Weights

    def send_weights(
        self, engines: Sequence[Any], version: int, backend: str, deadline_seconds: float
    ) -> TransferReceipt:
        """See actors.weights.send_weights; rank 0 is the sender."""
        return send_weights(
            GatheredWeights(self.lm),
            engines,
            version,
            backend=backend,
            is_sender=self.rank == 0,
            deadline_seconds=deadline_seconds,
        )

    def release(self) -> None:
        """Gives back what would outlast this process: its end is a kill, which runs nothing."""
        SharedFolder.remove()

    def export_model(self, directory: str) -> None:
        """A plain Hugging Face directory at a path or URL, adapters merged; it appears in one step (rank 0)."""
        weights = {}
        for name, tensor in GatheredWeights(self.lm):
            if self.rank == 0:
                weights[name] = tensor.detach().cpu().clone()
        if self.rank == 0:
            trusted = self.spec.model.trust_remote_code
            with node_copies.outgoing_model(place(directory)) as folder:
                source = node_copies.model_folder(self.spec.model_path)
                write_model(self.lm, weights, source, folder, trust_remote_code=trusted)
        dist.barrier()

    # Checkpoints

    def save(self, directory: str) -> list[FileRecord]:
        """The files at a path or URL that this rank answers for, written and hashed."""
        state = {
            "skipped_in_a_row": self.skipped_in_a_row,
            "ppo": self.ppo.state if self.ppo is not None else None,
        }
        frozen = self.spec.learner.lora is not None
        return rank_checkpoint.save(place(directory), self.rank, dict(self._models()), state, frozen=frozen)

    def load(self, directory: str, saved_world_size: int, call: str) -> None:
        """Everything that `save` wrote; from another number of ranks, all but random states (Universal Checkpoint).

        `call` is a name that no other call has.
        """
        state = rank_checkpoint.load(
            place(directory),
            self.rank,
            dict(self._models()),
            saved_world_size,
            call,
            strict=self.spec.learner.lora is None,
            deadline_seconds=self.spec.learner.deadline_seconds,
        )
        self.skipped_in_a_row = state["skipped_in_a_row"]
        if self.ppo is not None and state["ppo"] is not None:
            self.ppo.state = state["ppo"]

    def _models(self) -> Iterator[tuple[str, ShardedModel]]:
        yield "policy", self.policy
        if self.critic is not None:
            yield "critic", self.critic
