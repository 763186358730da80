"""The long-lived actors of a run, started when first asked for and shared by all its stages.

One set of rollout engines serves synthesis, PPO and evaluation: only its weights change. Actors are never detached;
they end with the driver.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import ray

from actors.capacity import make_room
from actors.embedder import EmbedderActor
from actors.local_ray import start_ray
from actors.places import Place
from actors.precision import openmp_environment
from actors.rollout import RolloutGroup
from actors.sandbox_group import SandboxGroup
from launch.console import log
from launch.model_cache import resolve_encoder, resolve_model, revision_of
from launch.pins import Pins
from ledex_ray.chat import Renderer
from ledex_ray.config import ModelConfig, Recipe
from ledex_ray.errors import BadInput
from ledex_ray.placement import TRACE, Demand, phases

CPUS = Demand("the encoder, CPU engines and CPU ranks", ({"CPU": TRACE},))
"""They take no CPU for themselves, and must not lie on a head or sandbox node: those offer none, and have no torch."""


class Fleet:
    """Rollout engines, sandboxes and the embedder of one run, and the tokenizer they agree on.

    Raises BadInput where the cluster has no place for what one of the stages (default: all of the recipe's) needs.
    """

    def __init__(self, recipe: Recipe, stages: Collection[str] | None = None, pins: Pins | None = None) -> None:
        self.recipe = recipe
        self._pins = pins or Pins()
        self.model_path = self._resolved(recipe.model.name)
        self._started: list[RolloutGroup | SandboxGroup] = []
        self._owns_ray = not ray.is_initialized()
        start_ray()
        try:
            for stage, demands in phases(recipe, stages).items():
                log.debug("%s asks for %s", stage, ", ".join(map(str, demands)))
                make_room([*demands, CPUS], max(recipe.rollout.ready_seconds, recipe.learner.ready_seconds))
        except BadInput:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every actor that was started, and Ray where it was started here."""
        for group in self._started:
            group.shutdown()
        if "embedder" in self.__dict__:
            ray.kill(self.embedder)
        if self._owns_ray:
            ray.shutdown()

    @cached_property
    def renderer(self) -> Renderer:
        """Messages to token ids, for this run's model."""
        return renderer_of(self.model_path, self.recipe.model)

    @cached_property
    def rollout(self) -> RolloutGroup:
        """The vLLM engines, ready to serve the base model."""
        log.info("starting %d rollout engine(s) on %s", self.recipe.rollout.actors, self.model_path.name)
        group = RolloutGroup(self.recipe.rollout, self.recipe.model, self.model_path)
        self._started.append(group)
        return group

    def end_engines(self) -> None:
        """Ends the engines, whose place is wanted for another model's; they start anew when they are next asked for."""
        if "rollout" in self.__dict__:
            self._started.remove(self.rollout)
            self.rollout.shutdown()
            del self.rollout

    @cached_property
    def sandbox(self) -> SandboxGroup:
        """The sandbox pool."""
        group = SandboxGroup(self.recipe.sandbox)
        self._started.append(group)
        return group

    @cached_property
    def embedder(self) -> ray.actor.ActorHandle:
        """The actor that holds the explanation encoder."""
        # Sandbox nodes have no torch; GPUs, which Ray does not hide from it, belong to engines and learner.
        return EmbedderActor.options(  # type: ignore[attr-defined]
            num_cpus=TRACE, runtime_env={"env_vars": openmp_environment(1)}
        ).remote(str(resolve_encoder(self.recipe.reward.encoder, self._pins)), "cpu")

    @contextmanager
    def teacher(self, name: str | None) -> Iterator[tuple[RolloutGroup, Renderer]]:
        """Engines and renderer of another model for as long as they are needed; the policy's own for None."""
        if name is None:
            yield self.rollout, self.renderer
            return
        path = self._resolved(name)
        model = other_model(self.recipe, name)
        log.info("starting %d rollout engine(s) on the teacher %s", self.recipe.rollout.actors, name)
        group = RolloutGroup(self.recipe.rollout, model, path)
        try:
            yield group, renderer_of(path, model)
        finally:
            group.shutdown()

    def revision(self, name: str) -> str:
        """The revision of a model that this run uses (`model_cache.revision_of`)."""
        return revision_of(self._resolved(name))

    def _resolved(self, name: str) -> Path:
        return resolve_model(name, self._pins, trust_remote_code=self.recipe.model.trust_remote_code)

    def serve(self, path: Place, version: int) -> None:
        """Puts the weights of a Hugging Face directory, at a path or URL, on every engine."""
        self.rollout.load(path, version)


def other_model(recipe: Recipe, name: str) -> ModelConfig:
    """The recipe's model with another one in its place, asked in the same layout; a teacher in its own.

    "chat" becomes "auto": the same for a tokenizer with a chat template, and one without has only the plain layout.
    """
    same = recipe.model.layout == "plain" and name != recipe.synthesis.teacher
    return recipe.model.model_copy(update={"name": name, "layout": "plain" if same else "auto"})


def renderer_of(path: Path, model: ModelConfig) -> Renderer:
    """Messages to token ids for the model in a directory. Raises BadInput where its tokenizer does not work."""
    from transformers import AutoTokenizer

    problem = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=model.trust_remote_code)
        if not tokenizer("a plain text", add_special_tokens=False)["input_ids"]:  # made up where no file is there
            problem = "turns text into nothing"
    except (OSError, ValueError) as error:
        problem = f"cannot be loaded ({' '.join(str(error).split())[:200]})"
    if problem:
        raise BadInput(
            str(path), f"its tokenizer {problem}", expected="the tokenizer's files beside the model, as tokenizer.json"
        )
    return Renderer(tokenizer, model.layout)
