"""The whole loop under GRPO beside TRL's GRPOTrainer in one run: episodes a second, from prompts to an updated policy.

    python -m benchmarks.ppo --trl DIR          (about 15 minutes on two cores)

DIR holds TRL (`pip install --target DIR --no-deps "trl==1.16.*"`), which is no dependency of this project. The same on
both sides: the model and its precision, the token ids of the prompts (seeded bugs to be put right), the group size, the
sampling (temperature 1, nothing cut from the distribution), the most tokens of an answer, the end-of-sequence token
that ends one and counts as one of its tokens, the reward (10 S_ut - 5, by this project's judge, on all cores), and the
update: one optimizer step an iteration in which each answer is seen once, the clip, the learning rate, and, unless
`--kl 0`, a KL term to a frozen reference in the loss. Gradients are checkpointed on neither side; TRL does it unless it
is told not to.

What differs is what is compared. Ours is `DebugPPO` as the stage runs it: vLLM samples and groups are judged as they
finish, each prompt is laid once and nothing is padded, the new weights are streamed into the engine and checked. TRL
samples with transformers (it is not given a vLLM), a batch until its longest answer ends, then judges, then updates in
padded micro-batches; its optimizer keeps bf16 weights where ours keeps fp32 ones beside them.

Each side runs in a process of its own, in turns, on all cores; its first iteration warms it up and is not counted. The
figures are medians over the others of all rounds. Answers are sampled, so the two sides' lengths differ a little: their
means stand beside the figures, and the tokens a second, in which a difference of length does not count.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.sandbox import no_code
from benchmarks.apart import Steps, give, run_apart
from launch.dialogue import Assignment
from ledex_ray.config import Recipe, SandboxConfig
from ledex_ray.problems import Limits
from ledex_ray.recipes import recipe_from_tree
from reward.compose import ARMS, compose
from reward.judge import Judge, JudgeConfig
from reward.scorer import Scorer
from reward.terms import TextJob

app = typer.Typer(add_completion=False)
console = Console(width=140)

LEARNING_RATE = 1e-6
COLUMNS = ("s/iteration", "episodes/s", "tokens/s", "episodes/CPU-s", "tokens/answer", "cut off", "reward")


@dataclass(frozen=True)
class Measured:
    """One side's iterations after its first."""

    seconds: list[float]
    cpu_seconds: list[float]
    episodes: list[float]  # learned from
    tokens: list[float]  # of an answer, mean
    truncated: list[float]  # share of answers that were cut off
    reward: list[float]  # mean

    def __add__(self, other: Measured) -> Measured:
        mine, theirs = asdict(self), asdict(other)
        return Measured(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def episodes_a_second(self) -> float:
        return statistics.median(n / s for n, s in zip(self.episodes, self.seconds, strict=True))

    @property
    def episodes_a_cpu_second(self) -> float:
        return statistics.median(n / s for n, s in zip(self.episodes, self.cpu_seconds, strict=True))

    @property
    def tokens_a_second(self) -> float:
        counted = zip(self.episodes, self.tokens, self.seconds, strict=True)
        return statistics.median(n * length / s for n, length, s in counted)

    def row(self) -> list[str]:
        """Under COLUMNS."""
        return [
            f"{statistics.median(self.seconds):.1f}",
            f"{self.episodes_a_second:.2f}",
            f"{self.tokens_a_second:.0f}",
            f"{self.episodes_a_cpu_second:.2f}",
            f"{statistics.mean(self.tokens):.0f}",
            f"{statistics.mean(self.truncated):.0%}",
            f"{statistics.mean(self.reward):+.2f}",
        ]


@app.command()
def main(
    trl: Annotated[Path, typer.Option(help="The directory that TRL was installed into.")],
    model: Annotated[str, typer.Option(help="Packaged name or path.")] = "smollm2-135m",
    prompts: Annotated[int, typer.Option(help="Prompts an iteration.")] = 8,
    samples: Annotated[int, typer.Option(help="Answers a prompt: the group.")] = 4,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    steps: Annotated[int, typer.Option(help="Measured iterations of a side and round.")] = 3,
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 2,
    kl: Annotated[float, typer.Option(help="Coefficient of the KL term; 0: no reference model.")] = 0.05,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    mode: Annotated[str, typer.Option(help="Ours: synchronous or asynchronous.")] = "synchronous",
    trl_batch: Annotated[int, typer.Option(help="TRL's micro-batch, in answers; divides those of an iteration.")] = 8,
) -> None:
    """Prints one row a side, and the ratios."""
    from actors.precision import resolve_precision
    from launch.model_cache import resolve_model

    episodes = prompts * samples
    if episodes % trl_batch:
        raise typer.BadParameter(
            f"{trl_batch} does not divide the {episodes} answers of an iteration", param_hint="trl-batch"
        )
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="ppo_") as folder:
        job = {
            "folder": folder, "trl": str(trl.resolve()), "model": str(resolve_model(model)), "prompts": prompts,
            "samples": samples, "max_tokens": max_tokens, "steps": steps, "kl": kl, "dtype": resolve_precision(dtype),
            "mode": mode, "trl_batch": trl_batch,
        }  # fmt: skip
        console.print(
            f"{model}, {job['dtype']}, GRPO, {prompts} prompts x {samples} answers of up to {max_tokens} tokens, "
            f"{rounds} x {steps} iterations a side"
        )
        for turn in range(rounds):
            for side in ("ours", "trl"):  # ours first: it also writes the prompts down
                measured = Measured(
                    **run_apart("benchmarks.ppo", {**job, "side": side, "turn": turn}, _environment(side))
                )
                found[side] = found[side] + measured if side in found else measured
                console.print(f"round {turn + 1}, {side}: {measured.episodes_a_second:.2f} episodes/s")
    table = Table("side", *COLUMNS)
    for side, measured in found.items():
        table.add_row(side, *measured.row())
    console.print(table)
    ours, theirs = found["ours"], found["trl"]
    console.print(
        f"ours / TRL: {ours.episodes_a_second / theirs.episodes_a_second:.2f} in episodes a second "
        f"({ours.episodes_a_second:.2f} / {theirs.episodes_a_second:.2f}), "
        f"{ours.tokens_a_second / theirs.tokens_a_second:.2f} in tokens a second, "
        f"{ours.episodes_a_cpu_second / theirs.episodes_a_cpu_second:.2f} in episodes a CPU-second"
    )


def _environment(side: str) -> dict[str, str]:
    offline = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    if side == "ours":
        return offline | {"RAY_worker_niceness": "0"}  # Ray's default of 15 would put us behind on a busy machine
    return offline | {"OMP_NUM_THREADS": str(os.cpu_count()), "TRL_EXPERIMENTAL_SILENCE": "1"}


def _recipe(job: dict[str, Any], run: str) -> Recipe:
    from benchmarks.small_runs import small_tree

    tree = small_tree(
        Path(job["model"]),
        run,
        model={"dtype": job["dtype"], "max_length": 512 + job["max_tokens"]},
        problems={"limit": 16},
        rollout={"max_num_seqs": job["prompts"] * job["samples"], "kv_cache_gb": 0.5},
        reward={"arm": "tests_only"},
        ppo={
            "algorithm": "grpo",
            "mode": job["mode"],
            "optimizer": {"lr": LEARNING_RATE},
            "iterations": job["steps"] + 2,
            "prompts_per_iteration": job["prompts"],
            "instructions": ["direct"],
            "sampling": {"n": job["samples"], "temperature": 1.0, "max_tokens": job["max_tokens"]},
            "minibatch_episodes": job["prompts"] * job["samples"],
            "kl_coef": job["kl"],
            "kl_placement": "loss",
            "kl_estimator": "k3",
            "validate_every": 10_000,
            "checkpoint_every": 10_000,
        },
    )
    return recipe_from_tree(tree)


def _ours(job: dict[str, Any]) -> Measured:
    from benchmarks.small_runs import synthesized, trained_beside
    from launch.fleet import Fleet

    os.environ["LEDEX_RUNS"] = job["folder"]
    steps, rows = Steps(), []
    with Fleet(_recipe(job, "base")) as fleet:
        base = synthesized(fleet)
        with trained_beside(base, fleet, _recipe(job, f"turn-{job['turn']}")) as algorithm:
            asked = algorithm.assignments.take(0, job["prompts"] * (job["steps"] + 1))
            Path(job["folder"], "asked.pickle").write_bytes(pickle.dumps(asked))
            for _ in range(job["steps"] + 1):  # the recipe's last one would save a checkpoint and a model
                with steps.step():
                    rows.append(algorithm.train())
    counted = {name: [float(row[name]) for row in rows[1:]] for name in ("answer_tokens", "truncated", "reward")}
    episodes = [float(row["n_used"]) for row in rows[1:]]
    return Measured(
        steps.seconds, steps.cpu_seconds, episodes, counted["answer_tokens"], counted["truncated"], counted["reward"]
    )


def _trl(job: dict[str, Any]) -> Measured:
    sys.path.append(job["trl"])
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    torch.set_num_threads(os.cpu_count() or 1)
    asked: list[Assignment] = pickle.loads(Path(job["folder"], "asked.pickle").read_bytes())
    rewards = Rewards(SandboxConfig(floor="C"))
    steps = Steps()
    answers: list[tuple[list[int], float | None]] = []

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.mark()

    class Asking(trl.GRPOTrainer):
        """A prompt is the number of an assignment, whose token ids are given as they are."""

        def _tokenize_prompts(self, texts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [list(asked[int(text)].prompt_ids) for text in texts], None, {}

    def tests(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float | None]:
        found = rewards.of([asked[int(number)] for number in prompts], completions)
        answers.extend(zip(completion_ids, found, strict=True))
        return found

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    episodes = job["prompts"] * job["samples"]
    config = trl.GRPOConfig(
        output_dir=job["folder"] + "/trl",
        max_steps=job["steps"] + 1,
        per_device_train_batch_size=job["trl_batch"],
        gradient_accumulation_steps=episodes // job["trl_batch"],
        gradient_checkpointing=False,
        num_generations=job["samples"],
        max_completion_length=job["max_tokens"],
        temperature=1.0,
        top_k=0,
        beta=job["kl"],
        epsilon=0.2,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        use_cpu=True,
        bf16=job["dtype"] == "bfloat16",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    trainer = Asking(
        model=model,
        args=config,
        reward_funcs=tests,
        train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(len(asked))]),
        processing_class=tokenizer,
        callbacks=[Marks()],
    )
    trainer.train()
    groups = [answers[start : start + episodes] for start in range(episodes, len(answers), episodes)]
    return Measured(
        steps.seconds,
        steps.cpu_seconds,
        [float(episodes)] * len(groups),
        [statistics.mean(len(ids) for ids, _ in group) for group in groups],
        [statistics.mean(ids[-1] not in trainer.eos_token_ids for ids, _ in group) for group in groups],
        [statistics.mean(reward for _, reward in group if reward is not None) for group in groups],
    )


class Rewards:
    """What ours earn in the sandbox actors, by the judge and scorer that these own, in threads here, one a core."""

    def __init__(self, config: SandboxConfig) -> None:
        cores = os.cpu_count() or 1
        self._limits = Limits(config.cpu_seconds, config.memory_mb)
        self._free: queue.SimpleQueue[tuple[Judge, Scorer]] = queue.SimpleQueue()
        for _ in range(cores):
            self._free.put((Judge(JudgeConfig(python=config.python or "", floor=config.floor)), Scorer()))
        self._threads = ThreadPoolExecutor(cores)

    def of(self, assignments: Sequence[Assignment], texts: Sequence[str]) -> list[float | None]:
        """One reward an answer; None where there is none to be had."""
        return list(self._threads.map(self._one, assignments, texts))

    def _one(self, assignment: Assignment, text: str) -> float | None:
        job = TextJob(
            assignment.id,
            text=text,
            instruction=assignment.instruction,
            entry_point=assignment.problem.entry_point,
            wrong_code=assignment.wrong_code,
            references=assignment.references,
            codebleu=False,
        )
        problem = assignment.problem
        judge, scorer = sandbox = self._free.get()
        try:
            (terms,) = scorer.score([job])
            limited = replace(problem, limits=problem.limits or self._limits)
            code = terms.answer.code
            verdict = judge.judge(limited, code) if code else no_code(problem, judge.tier)
        finally:
            self._free.put(sandbox)
        reward = compose(ARMS["tests_only"], terms, verdict, explain=False)
        return reward.refinement if reward.scored else None


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        chosen = json.loads(sys.argv[2])
        give(asdict((_ours if chosen["side"] == "ours" else _trl)(chosen)))
    else:
        app()
