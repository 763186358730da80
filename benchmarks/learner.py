"""The learner beside TRL's trainers in one run: same model, real trajectories, precision and tokens a step.

    python -m benchmarks.learner RUN --trl DIR          (about 15 minutes on two cores)

RUN is a run directory whose synthesis is finished; DIR holds TRL (`pip install --target DIR --no-deps "trl==1.16.*"`),
which is no dependency of this project. Each side runs in a process of its own, in turns, on the same cores: a warm-up
step, then the measured ones; the table gives medians, peak resident memory and the ratio. Both sides hold bf16 weights
(`auto` on a machine with bf16 instructions). Generation is left out: TRL's trainers are given the recorded answers.
"trl sft" is the trainer as it comes, with gradient checkpointing; the others have it off, as ours has, which is faster.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.apart import Steps, give, run_apart
from ledex_ray.episodes import Episode, SupervisedExample

app = typer.Typer(add_completion=False)
console = Console(width=120)

GROUP = 4
SIDES = {  # name -> what it is held against
    "ours sft": None,
    "trl sft": "ours sft",
    "trl sft packing": "ours sft",
    "trl sft padding-free": "ours sft",
    "ours grpo": None,
    "trl grpo": "ours grpo",
    "ours rloo": None,
    "trl rloo": "ours rloo",
    "ours ppo": None,
}


@dataclass(frozen=True)
class Measured:
    """One side's steps."""

    seconds: list[float]
    cpu_seconds: list[float]
    peak_bytes: int
    tokens: int  # real tokens of one step, padding not counted

    @property
    def tokens_a_second(self) -> float:
        return self.tokens / statistics.median(self.seconds)

    @property
    def tokens_a_cpu_second(self) -> float:
        return self.tokens / statistics.median(self.cpu_seconds)


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="A run directory with a finished synthesis.")],
    trl: Annotated[Path, typer.Option(help="The directory that TRL was installed into.")],
    model: Annotated[str, typer.Option(help="Packaged name or path.")] = "smollm2-135m",
    batch: Annotated[int, typer.Option(help="Sequences a step.")] = 32,
    steps: Annotated[int, typer.Option(help="Measured steps.")] = 3,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    side: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(SIDES)}.")] = None,
    max_length: Annotated[int, typer.Option(help="Longest sequence.")] = 896,
) -> None:
    """Prints one row a side."""
    from actors.precision import resolve_precision
    from launch.model_cache import resolve_model

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        n, tokens = _prepare(run, data, resolve_model(model), batch, max_length)
        console.print(
            f"{model}, {resolve_precision(dtype)}, {n} sequences, {tokens} tokens an SFT step, {steps} steps a side"
        )
        table = Table("side", "tokens/s", "tokens/CPU-s", "peak GiB", "ours is faster by (wall)", "(CPU)")
        found: dict[str, Measured] = {}
        for name in side or list(SIDES):
            job = {
                "side": name, "data": str(data), "model": str(resolve_model(model)), "steps": steps,
                "dtype": resolve_precision(dtype), "trl": str(trl),
            }  # fmt: skip
            found[name] = measured = Measured(**run_apart("benchmarks.learner", job, _environment(name)))
            console.print(
                f"{name}: {measured.tokens_a_second:.0f} tokens/s, {measured.tokens_a_cpu_second:.0f} a CPU-second, "
                f"peak {measured.peak_bytes / 2**30:.2f} GiB"
            )
            ours = found.get(SIDES[name] or "")
            ratios = ["", ""]
            if ours is not None:
                ratios = [
                    f"{ours.tokens_a_second / measured.tokens_a_second:.2f}",
                    f"{ours.tokens_a_cpu_second / measured.tokens_a_cpu_second:.2f}",
                ]
            table.add_row(
                name,
                f"{measured.tokens_a_second:.0f}",
                f"{measured.tokens_a_cpu_second:.0f}",
                f"{measured.peak_bytes / 2**30:.2f}",
                *ratios,
            )
        console.print(table)


def _prepare(run: Path, out: Path, model_path: Path, batch: int, max_length: int) -> tuple[int, int]:
    """Writes one batch of the run's own SFT examples; (sequences, tokens)."""
    from transformers import AutoTokenizer

    from launch.problem_sets import training_problems
    from launch.rundir import RunDirectory
    from launch.synthesize import load_attempts, load_trajectories
    from ledex_ray.chat import Renderer
    from ledex_ray.recipes import load_recipe
    from ledex_ray.supervised import supervised_examples

    recipe = load_recipe(run / "recipe.yaml")
    opened = RunDirectory(run, recipe, io.StringIO())
    renderer = Renderer(AutoTokenizer.from_pretrained(model_path), recipe.model.layout)
    examples = supervised_examples(
        training_problems(recipe),
        load_attempts(opened),
        load_trajectories(opened),
        renderer,
        recipe.sft,
        max_length,
    )
    random.Random(0).shuffle(examples)
    chosen = examples[: batch // GROUP * GROUP]
    np.savez(
        out,
        ids=np.concatenate([e.token_ids for e in chosen]),
        mask=np.concatenate([e.loss_mask for e in chosen]),
        lengths=[len(e.token_ids) for e in chosen],
    )
    return len(chosen), sum(len(e.token_ids) for e in chosen)


def _environment(side: str) -> dict[str, str]:
    common = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(os.cpu_count()), "HF_HUB_OFFLINE": "1"}
    if not side.startswith("ours"):  # accelerate would take ranks for a distributed launch
        return common | {"TRL_EXPERIMENTAL_SILENCE": "1"}
    return common | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def _one(job: dict[str, Any]) -> None:
    """One side, in this process."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    who, what = job["side"].split(" ", 1)
    examples = _load(Path(job["data"]))
    if not what.startswith("sft"):
        examples = _grouped(examples)
    steps = Steps()
    (_ours if who == "ours" else _trl)(what, job, examples, steps.mark)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    give(asdict(Measured(steps.seconds, steps.cpu_seconds, peak_bytes, sum(len(e.token_ids) for e in examples))))


def _load(path: Path) -> list[SupervisedExample]:
    stored = np.load(path)
    cuts = np.cumsum(stored["lengths"])[:-1]
    pairs = zip(np.split(stored["ids"], cuts), np.split(stored["mask"], cuts), strict=True)
    return [SupervisedExample(f"e{i}", ids.astype(np.int32), mask) for i, (ids, mask) in enumerate(pairs)]


def _grouped(examples: list[SupervisedExample]) -> list[SupervisedExample]:
    """Each four as answers to the first one's prompt: what both sides' policy updates are given."""
    made = []
    for index, example in enumerate(examples):
        first = examples[index // GROUP * GROUP]
        prompt, start = int(np.argmax(first.loss_mask)), int(np.argmax(example.loss_mask))
        ids = np.concatenate([first.token_ids[:prompt], example.token_ids[start:]])
        made.append(SupervisedExample(example.id, ids, np.arange(len(ids)) >= prompt))
    return made


def _ours(what: str, job: dict[str, Any], examples: list[SupervisedExample], mark: Callable[[], None]) -> None:
    from actors.learner_rank import LearnerRank, LearnerSpec
    from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig, PPOConfig

    ppo = None
    if what != "sft":
        ppo = PPOConfig(
            algorithm=what,
            minibatch_episodes=len(examples),
            critic_warmup=0,
            kl_placement="loss" if what == "grpo" else "reward",
            kl_estimator="k3" if what == "grpo" else "k1",
        )
    rank = LearnerRank(
        LearnerSpec(
            learner=LearnerConfig(),
            model=ModelConfig(),
            precision=job["dtype"],
            model_path=job["model"],
            reference_path=job["model"],
            optimizer=OptimizerConfig(lr=1e-6),
            total_steps=100,
            seed=0,
            ppo=ppo,
        )
    )
    rank.build(*rank.endpoint())
    episodes = _episodes(examples) if ppo else []
    for iteration in range(job["steps"] + 1):
        mark()
        if ppo:
            rank.ppo_update(episodes, iteration)
        else:
            rank.sft_step(examples)
        mark()


def _episodes(examples: list[SupervisedExample]) -> list[Episode]:
    """The recorded answers as episodes, by groups of four, with seeded rewards."""
    noise = random.Random(0)
    made = []
    for index, example in enumerate(examples):
        rewards = np.zeros(len(example.token_ids), dtype=np.float32)
        rewards[-1] = noise.uniform(-5, 5)
        versions = np.where(example.loss_mask, 0, -1).astype(np.int32)
        zeros = np.zeros(len(rewards), dtype=np.float32)
        group = f"g{index // GROUP}"
        made.append(
            Episode(
                example.id, group, group, "explain", example.token_ids, example.loss_mask,
                zeros, versions, rewards, -1, 1.0,
            )
        )  # fmt: skip
    return made


def _trl(what: str, job: dict[str, Any], examples: list[SupervisedExample], mark: Callable[[], None]) -> None:
    sys.path.append(job["trl"])
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            mark()

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": job["steps"] + 1,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": max(1, len(examples) // 8),
        "use_cpu": True,
        "bf16": job["dtype"] == "bfloat16",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 1e-6,
        "gradient_checkpointing": what == "sft",  # their default, left on where the trainer is measured as it comes
    }
    if what.startswith("sft"):
        rows = [
            {"input_ids": e.token_ids.tolist(), "completion_mask": e.loss_mask.astype(int).tolist()} for e in examples
        ]
        extra: dict[str, Any] = {"max_length": 2048 if "packing" in what else 1024}
        if "packing" in what:  # a row of 2,048 tokens holds about as many sequences as a batch of 8 does
            extra |= {"packing": True}
            packed = -(-sum(len(e.token_ids) for e in examples) // 2048)
            common |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": packed}
        if "padding-free" in what:
            extra |= {"padding_free": True, "max_length": None}
        config = trl.SFTConfig(**common, **extra)
        trainer = trl.SFTTrainer(
            model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Marks()]
        )
        trainer.train()
        return
    starts = [int(np.argmax(e.loss_mask)) for e in examples]
    answers = [[e.token_ids[s:].tolist() for e, s in zip(examples, starts, strict=True)][i:i + GROUP]
               for i in range(0, len(examples), GROUP)]  # fmt: skip
    prompts = [examples[i].token_ids[: starts[i]].tolist() for i in range(0, len(examples), GROUP)]
    longest = max(len(a) for group in answers for a in group)
    noise = random.Random(0)
    extra = {"num_generations": GROUP, "max_completion_length": longest, "beta": 0.05}
    kind, base = (trl.GRPOConfig, trl.GRPOTrainer) if what == "grpo" else (trl.RLOOConfig, trl.RLOOTrainer)

    class Recorded(base):  # type: ignore[misc, valid-type]
        """Answers come from the record; everything else is TRL's."""

        def _tokenize_prompts(self, texts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            self._groups = [int(text) for text in texts]
            return [list(prompts[group]) for group in self._groups], None, {}

        def _generate_single_turn(self, *_: Any, **__: Any) -> Any:
            seen: dict[int, int] = {}
            chosen = []
            for group in self._groups:
                chosen.append(list(answers[group][seen.get(group, 0) % GROUP]))
                seen[group] = seen.get(group, 0) + 1
            return (chosen, None) if what == "grpo" else chosen

    trainer = Recorded(
        model=model,
        args=kind(**common, **extra),
        reward_funcs=lambda completions, **_: [noise.uniform(-5, 5) for _ in completions],
        train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(len(prompts))]),
        processing_class=tokenizer,
        callbacks=[Marks()],
    )
    trainer.train()


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        _one(json.loads(sys.argv[2]))
    else:
        app()
