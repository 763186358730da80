"""`ledex plan`: what a recipe needs on each kind of actor, before anything is started.

No Ray; torch only to convert the packaged model, once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actors.places import is_url
from actors.precision import resolve_precision
from launch.console import log
from launch.recipe_names import read_recipe
from launch.stages import check_context, check_settings, check_tensor_parallel
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput, named
from ledex_ray.placement import check_weight_transfer, phases, unmet
from ledex_ray.planner import GIB, ModelShape, Plan, read_shape
from ledex_ray.planner import plan as make_plan
from reward.judge.many import cores


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a packaged recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs there are; 0 plans a CPU machine.")] = 0,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="GiB of one GPU; with --gpus 0, of the whole machine.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes over which the GPUs are spread evenly.")] = 1,
) -> None:
    """Show memory and placement of a recipe before anything is started; exit 1 where it does not fit.

    Dense models alone: a mixture of experts is refused.

    Example: ledex plan codellama_7b --gpus 8 --gpu-memory 80
    """
    resolved = read_recipe(recipe, overrides)
    if gpus and gpu_memory is None:
        raise BadInput("--gpu-memory", "is missing", expected="GiB of one GPU, e.g. --gpu-memory 80")
    if gpus % nodes:
        raise BadInput("--nodes", f"does not divide --gpus {gpus}", given=nodes)
    on_cpu = [name for name in ("learner", "rollout") if gpus and not getattr(resolved, name).gpus]
    if on_cpu:
        moved = {name: getattr(resolved, name).model_copy(update={"gpus": 1}) for name in on_cpu}
        resolved = resolved.model_copy(update=moved)
    with named("recipe key 'model.name'"):
        shape = read_shape(_configuration(resolved.model.name))
    _check(resolved, shape)
    precision = resolve_precision(resolved.model.dtype, gpus)
    memory = gpu_memory if gpu_memory is not None else _machine_gib()
    made = make_plan(resolved, shape, precision=precision, gpus=gpus, gpu_memory_gb=memory, cores=cores())
    over = f" on {nodes} nodes" if nodes > 1 else ""
    where = f"{gpus} GPUs of {memory:g} GiB{over}" if gpus else f"a CPU machine of {memory:.0f} GiB"
    _show(made, f"{resolved.model.name}: {shape.parameters / 1e6:,.0f} M parameters, {precision}, on {where}")
    if on_cpu:
        keys = " ".join(f"{name}.gpus=1" for name in on_cpu)
        Console(emoji=False).print(
            f"the recipe puts {' and '.join(on_cpu)} on the CPU; this is with {keys}", markup=False, soft_wrap=True
        )
    homeless = _show_placement(resolved, gpus, nodes)
    if homeless or not made.fits:
        raise typer.Exit(1)


def _check(recipe: Recipe, shape: ModelShape) -> None:
    """Raises BadInput for what `ledex run` would refuse as well, or an engine."""
    check_settings(recipe, recipe.stages)
    if "ppo" in recipe.stages:
        check_weight_transfer(recipe)
    check_context(recipe, "model.name", recipe.model.name, shape.context)
    check_tensor_parallel(recipe, shape.heads)


def _show(made: Plan, title: str) -> None:
    console = Console(emoji=False)
    table = Table(title=title, title_justify="left")
    for column in ("actor", "count", "on", "GiB each", "of which", "note"):
        table.add_column(column, justify="right" if column in ("count", "GiB each") else "left")
    for actor in made.actors:
        parts = ", ".join(f"{part.name} {part.bytes / GIB:.2f}" for part in actor.parts if part.bytes)
        table.add_row(actor.kind, str(actor.count), actor.device, f"{actor.bytes / GIB:.2f}", parts, actor.note)
    console.print(table)
    if made.token_budget is not None:
        console.print(f"largest learner.tokens_per_micro_batch that fits: {made.token_budget}", soft_wrap=True)
    if made.gpus_needed:
        console.print(f"GPUs taken: {made.gpus_needed:g}")
    for line in made.advice:
        console.print(f"does not fit: {line}", style="red", markup=False, soft_wrap=True)


def _show_placement(recipe: Recipe, gpus: int, nodes: int) -> bool:
    """Prints what each stage asks the scheduler for; whether GPU nodes as given lack a place for some of it."""
    console = Console(emoji=False)
    homeless = False
    for stage, demands in phases(recipe).items():
        console.print(
            f"{stage} asks for {', '.join(f'{d} {d.strategy}' for d in demands) or 'nothing'}",
            markup=False,
            soft_wrap=True,
        )
        on_gpus = [demand for demand in demands if any(bundle.get("GPU") for bundle in demand.bundles)]
        for demand in unmet(on_gpus, [{"GPU": gpus / nodes}] * nodes):
            console.print(
                f"no place on {nodes} x {gpus // nodes} GPUs for {demand}", style="red", markup=False, soft_wrap=True
            )
            homeless = True
    return homeless


def _configuration(name: str) -> Path:
    """A directory with the model's config.json: the packaged model, a path, or the hub's configuration alone."""
    from launch.adapters import base_of, is_adapter
    from launch.model_cache import PACKAGED_MODEL, is_path, resolve_model, root_cause
    from launch.pins import split_revision

    if name == PACKAGED_MODEL or not name.strip() or is_url(name):
        return resolve_model(name)
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return _configuration(base_of(folder)) if is_adapter(folder) else folder
    if is_path(name) or folder.exists():
        return resolve_model(name)  # which says what is wrong with it
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    log.info("model %s: asking the hub", name)
    repo_id, revision = split_revision(name)
    try:
        return Path(hf_hub_download(repo_id, "config.json", revision=revision)).parent
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError) as error:
        raise BadInput(
            name, f"has no configuration here or on the hub ({root_cause(error)})", expected="a path or a hub id"
        ) from error


def _machine_gib() -> float:
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    (total,) = (line.split()[1] for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return int(total) * 1024 / GIB
