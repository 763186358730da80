"""Asynchronous PPO beside synchronous PPO, engine and learner each bound to a core of its own. In one run.

    python -m benchmarks.overlap                       (about 6 minutes on two cores)
    python -m benchmarks.overlap --iterations 12 --tokens 256

A random model never ends an answer, so every iteration samples the same number of tokens. Sampling and update have to
be of similar length: `--at-once` makes sampling longer, and the number of epochs, chosen in a first synchronous run,
the update. Printed are medians over the iterations after the first two, and their ratio.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.small_runs import small_tree, synthesized, trained_beside
from launch.console import configure_logging
from launch.fleet import Fleet
from launch.model_cache import resolve_model
from ledex_ray.config import Recipe
from ledex_ray.recipes import recipe_from_tree

app = typer.Typer(add_completion=False)
console = Console(width=120)
WARM_UP = 2


@dataclass(frozen=True)
class Timings:
    """Medians over iterations, in seconds, and busy shares."""

    iteration: float
    update: float
    transfer: float
    rollout: float
    learner: float


@app.command()
def main(
    iterations: Annotated[int, typer.Option(help="Iterations a mode, after the warm-up.")] = 8,
    tokens: Annotated[int, typer.Option(help="New tokens an answer.")] = 192,
    prompts: Annotated[int, typer.Option(help="Prompts an iteration, 8 answers each.")] = 4,
    at_once: Annotated[int, typer.Option(help="Answers that the engine writes at a time.")] = 8,
    epochs: Annotated[int, typer.Option(help="Passes of an update; 0: as many as take as long as the sampling.")] = 0,
) -> None:
    """Prints the length of an iteration in both modes and its ratio."""
    configure_logging()
    with tempfile.TemporaryDirectory(prefix="overlap_") as folder:
        os.environ["LEDEX_RUNS"] = folder
        model = _model(Path(folder) / "model")
        with Fleet(_recipe(model, "base", "synchronous", iterations, tokens, prompts, at_once, 1)) as fleet:
            base = synthesized(fleet)
            if not epochs:
                trial = _train(fleet, _recipe(model, "trial", "synchronous", 3, tokens, prompts, at_once, 1), base)
                sampling = trial.iteration - trial.update - trial.transfer
                epochs = max(1, round(sampling / trial.update))
            found = {
                mode: _train(fleet, _recipe(model, mode, mode, iterations, tokens, prompts, at_once, epochs), base)
                for mode in ("synchronous", "asynchronous")
            }
    table = Table(title=f"{prompts * 8} answers of {tokens} tokens, {epochs} epochs; medians of {iterations}")
    for column in ("", "iteration s", "update s", "transfer s", "engine busy", "learner busy"):
        table.add_column(column, justify="right")
    for mode, t in found.items():
        table.add_row(
            mode, f"{t.iteration:.2f}", f"{t.update:.2f}", f"{t.transfer:.2f}", f"{t.rollout:.0%}", f"{t.learner:.0%}"
        )
    console.print(table)
    ratio = found["asynchronous"].iteration / found["synchronous"].iteration
    console.print(f"asynchronous / synchronous: {ratio:.2f}")


def _model(folder: Path) -> Path:
    """A random Llama of 20 M parameters, large enough that both sides compute more than they talk."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _recipe(
    model: Path, run: str, mode: str, iterations: int, tokens: int, prompts: int, at_once: int, epochs: int
) -> Recipe:
    total = WARM_UP + iterations
    tree = small_tree(
        model,
        run,
        model={"dtype": "float32", "max_length": 512 + tokens},
        problems={"limit": 8},
        rollout={"max_num_seqs": at_once, "kv_cache_gb": 0.5, "threads": 1},
        learner={"threads": 1, "tokens_per_micro_batch": 4096},
        reward={"arm": "tests_only"},
        ppo={
            "algorithm": "reinforce++",
            "mode": mode,
            "iterations": total,
            "prompts_per_iteration": prompts,
            "instructions": ["direct"],
            "sampling": {"n": 8, "max_tokens": tokens},
            "minibatch_episodes": 8 * prompts,
            "epochs": epochs,
            "kl_coef": 0.0,
            "validate_every": 10_000,
            "checkpoint_every": 10_000,
        },
    )
    return recipe_from_tree(tree)


def _train(fleet: Fleet, recipe: Recipe, base: Path) -> Timings:
    with trained_beside(base, fleet, recipe) as algorithm:
        engines = [info.pid for info in fleet.rollout.infos()]
        last = psutil.cpu_count(logical=True) - 1
        for pids, core in ((engines, 0), (algorithm.learner.pids(), last)):
            for pid in pids:
                bind(pid, core)
        rows: list[dict[str, Any]] = []
        seconds = []
        for _ in range(recipe.ppo.iterations - 1):  # the last one exports a model and saves a checkpoint
            started = time.perf_counter()
            rows.append(algorithm.train())
            seconds.append(time.perf_counter() - started)

    def median(name: str) -> float:
        return statistics.median(float(row[name]) for row in rows[WARM_UP:])

    return Timings(
        statistics.median(seconds[WARM_UP:]),
        median("seconds"),
        median("transfer_seconds"),
        median("busy_rollout"),
        median("busy_learner"),
    )


def bind(pid: int, core: int) -> None:
    """Keeps every thread of a process, and of its children, on one core."""
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        for thread in process.threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {core})


if __name__ == "__main__":
    app()
