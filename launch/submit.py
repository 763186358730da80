"""`ledex submit`: a run of a recipe as a Ray job, on a cluster that has ledex-ray's dependencies installed.

The job is `ledex run` with the same recipe, in a copy of the working directory, so the run directory decides as always:
new, resumed, refused. Where a job of the same run is under way already, it is followed and no second one is started.
Not covered: starting a cluster (docs/cluster.md); files that lie outside the working directory.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.places import is_url, place
from launch.console import console
from launch.recipe_names import packaged_recipes, read_recipe
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import recipe_hash

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# As in .gitignore, which Ray follows too. The last line is what nobody means to hand out.
EXCLUDES = (
    ".git", "/.venv/", "/runs/", "/build/", "/dist/", "/wandb/", "__pycache__/", ".*_cache/",
    ".env", "*.pem", ".aws/", ".ssh/", ".netrc",
)  # fmt: skip
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)", re.IGNORECASE)
RETRY_SECONDS = 2.0
UNREACHABLE_SECONDS = 300.0  # a head that reboots, a tunnel that is opened again


def submit(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged recipe, or a YAML file to take along.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides.")] = None,
    address: Annotated[
        str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    runs: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", envvar="LEDEX_RUNS", help="Where runs live: a folder that all nodes see, or a URL."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its log; the exit code is the job's.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start NAME-2 instead of resuming NAME.")] = False,
    working_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="What the job gets a copy of: code, recipes, problem files.")
    ] = Path("."),
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="KEY=VALUE", help="Environment of the job; no secrets.")
    ] = None,
) -> None:
    """Run or resume a recipe as a Ray job. Submitting it again goes on with the same run.

    Example: ledex submit codellama_7b run=first --address http://127.0.0.1:8265 --runs /mnt/shared/runs --follow
    """

    resolved = read_recipe(recipe, overrides)
    environment = job_environment(runs, env or ())
    command = entrypoint(recipe, overrides or (), working_dir, fresh)
    client = connect(address)
    job = None if fresh else under_way(_jobs_of(client, resolved.run), resolved, environment["LEDEX_RUNS"], address)
    if job is None:
        job = _start(client, resolved, command, environment, working_dir, fresh)
        console.print(f"submitted {job}: {command}", highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(f"run {resolved.run} is under way as {job}", highlight=False, markup=False)
    if not follow:
        console.print(_hints(job, address), highlight=False, markup=False, soft_wrap=True)
        return
    try:
        raise typer.Exit(_follow(client, job, address))
    except KeyboardInterrupt:
        console.print(f"\nthe job goes on\n{_hints(job, address)}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(130) from None


def entrypoint(recipe: str, overrides: Sequence[str], working_dir: Path, fresh: bool) -> str:
    """The job's shell command, with a recipe file relative to the working directory. BadInput where it lies outside."""
    if not working_dir.is_dir() or working_dir.resolve() in (Path.home().resolve(), Path("/")):
        raise BadInput(
            "--working-dir",
            "all of it would travel" if working_dir.is_dir() else "is no directory",
            given=str(working_dir.resolve()),
            expected="a checkout, or a folder with the recipe and what it names",
        )
    path = Path(recipe)
    if path.exists() or recipe not in packaged_recipes():
        try:
            recipe = str(path.resolve().relative_to(working_dir.resolve()))
        except ValueError as error:
            raise BadInput(
                recipe,
                f"lies outside the working directory {working_dir.resolve()}, which is all that the job gets",
                expected="a recipe inside it, or --working-dir",
            ) from error
    words = ["python", "-m", "launch.cli", "run", recipe, *overrides, *(["--fresh"] if fresh else [])]
    return shlex.join(words)


def job_environment(runs: str | None, pairs: Sequence[str]) -> dict[str, str]:
    """Variables of the job and its actors: LEDEX_RUNS (`runs`), and the `KEY=VALUE` pairs. None of this process's own.

    Raises BadInput for what looks like a secret (the job's page shows it all) and for runs in no place.
    """
    environment = {"PYTHONUNBUFFERED": "1"}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput("--env", "is not of the form KEY=VALUE", given=pair, expected="e.g. --env HF_HUB_OFFLINE=1")
        if SECRET.search(key):
            raise BadInput(
                "--env",
                f"{key} looks like a secret, and the environment of a job is shown on the cluster's dashboard",
                expected="secrets in the nodes' own environment (docs/cluster.md)",
            )
        environment[key] = value
    if runs is not None:
        environment["LEDEX_RUNS"] = runs
    folder = environment.get("LEDEX_RUNS")
    if folder and is_url(folder):
        place(folder)  # or BadInput
    elif not folder or not folder.startswith("/"):
        raise BadInput(
            "--runs",
            "is missing" if not folder else "is relative, and the job's working directory goes away with the job",
            given=folder or None,
            expected="the absolute path of a folder that every node of the cluster sees, or a URL (s3://, gs://)",
        )
    return environment


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at `address`, with this user's token. Raises BadInput."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not re.match(r"https?://[^/]", address):
        raise BadInput("--address", "is no URL", given=address, expected="the dashboard's, e.g. http://127.0.0.1:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client would prefer RAY_ADDRESS to what it is given
    token = auth_token(os.environ)
    try:
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    except AuthenticationError as error:
        raise BadInput(
            "--address",
            f"{address} refuses {'the token that was sent' if token else 'a request without a token'}",
            expected="the cluster's token in ~/.ray/auth_token, or in the file that RAY_AUTH_TOKEN_PATH names",
        ) from error
    except (OSError, RuntimeError) as error:  # every error of `requests` is an OSError
        raise BadInput(
            "--address",
            f"no Ray dashboard answers at {address} ({type(error).__name__})",
            expected="http://HEAD:8265; `ray dashboard cluster.yaml` opens it at http://127.0.0.1:8265",
        ) from error


def auth_token(environment: Mapping[str, str]) -> str | None:
    """The token with which Ray's own commands would authenticate; None without one, or where that is disabled."""
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"].strip()
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


def job_metadata(recipe: Recipe, runs: str, fresh: bool) -> dict[str, str]:
    """What a job is found by again. A fresh one's run gets its number on the cluster: it is nobody's to follow."""
    return {
        "ledex_run": recipe.run,
        "ledex_runs": runs,
        "ledex_recipe": recipe_hash(recipe),
        "ledex_fresh": "yes" if fresh else "no",
    }


def under_way(jobs: Iterable[JobDetails], recipe: Recipe, runs: str, address: str) -> str | None:
    """Which of these jobs the recipe's run is under way in; BadInput where that one has another recipe."""
    for job in jobs:
        if job.status.is_terminal() or (job.metadata or {}).get("ledex_runs") != runs:
            continue
        if (job.metadata or {}).get("ledex_fresh") == "yes":
            continue
        if (job.metadata or {}).get("ledex_recipe") != recipe_hash(recipe):
            raise BadInput(
                f"run {recipe.run}",
                f"is under way with another recipe, as job {job.submission_id}",
                expected=f"another run=NAME, or first: ray job stop {job.submission_id} --address {address}",
            )
        return job.submission_id
    return None


def _jobs_of(client: JobSubmissionClient, run: str) -> list[JobDetails]:
    return [job for job in client.list_jobs() if (job.metadata or {}).get("ledex_run") == run and job.submission_id]


def _start(
    client: JobSubmissionClient,
    recipe: Recipe,
    command: str,
    environment: Mapping[str, str],
    working_dir: Path,
    fresh: bool,
) -> str:
    taken = {job.submission_id for job in _jobs_of(client, recipe.run)}
    number = next(n for n in range(1, len(taken) + 2) if f"ledex-{recipe.run}-{n}" not in taken)
    runtime_env: dict[str, Any] = {
        "working_dir": str(working_dir.resolve()),
        "excludes": list(EXCLUDES),
        "env_vars": dict(environment),
    }
    try:
        return client.submit_job(
            entrypoint=command,
            submission_id=f"ledex-{recipe.run}-{number}",
            runtime_env=runtime_env,
            metadata=job_metadata(recipe, environment["LEDEX_RUNS"], fresh),
            entrypoint_num_cpus=0,  # the driver computes nothing: it runs on the head, which offers no CPU
            entrypoint_num_gpus=0,
        )
    except ValueError as error:  # Ray's answer to a working directory over its limit
        raise BadInput("--working-dir", " ".join(str(error).split())[:300], expected="a smaller one") from error


def _follow(client: JobSubmissionClient, job: str, address: str) -> int:
    """Writes the job's log to standard output until it ends; the exit code. A lost connection is taken up again."""
    from aiohttp import ClientError

    shown = 0
    lost_since: float | None = None

    def show(text: str, start: int) -> None:
        """Text that begins at character `start` of the log; what was shown already is left out."""
        nonlocal shown, lost_since
        lost_since = None
        sys.stdout.write(text[max(0, shown - start) :])
        sys.stdout.flush()
        shown = max(shown, start + len(text))

    async def tail() -> None:
        position = 0  # each connection begins at the log's first line
        async for text in client.tail_job_logs(job):
            show(text, position)
            position += len(text)

    while True:
        try:
            asyncio.run(tail())
            info = client.get_job_info(job)
            if info.status.is_terminal():
                show(client.get_job_logs(job), 0)
                break
        except (ClientError, OSError, RuntimeError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > UNREACHABLE_SECONDS:
                console.print(
                    f"ledex submit: {address} has not answered for {UNREACHABLE_SECONDS:.0f} s "
                    f"({type(error).__name__}). Where the head was lost, the same command on a new one resumes.",
                    style="red", highlight=False, markup=False, soft_wrap=True,
                )  # fmt: skip
                return 1
        time.sleep(RETRY_SECONDS)
    message = f"{job}: {info.status}" + ("" if info.status == "SUCCEEDED" else f" ({_first_line(info.message)})")
    console.print(message, highlight=False, markup=False, soft_wrap=True)
    if info.status == "SUCCEEDED":
        return 0
    code = info.driver_exit_code
    return code if code is not None and 0 < code < 256 else 1


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0][:200] if (text or "").strip() else "no message"


def _hints(job: str, address: str) -> str:
    return (
        f"watch: ray job logs --follow {job} --address {address}\n"
        f"stop:  ray job stop {job} --address {address}\n"
        "go on: the same ledex submit command"
    )
