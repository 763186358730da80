"""`ledex submit` against a real Ray head with token authentication, and what it refuses without one."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from launch.submit import auth_token, connect, entrypoint, job_environment, job_metadata, under_way
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from tests.cluster.isolation import ROOT, isolated, run

ADDRESS = "http://127.0.0.1:8265"
TOKEN = "a-token-for-this-test-alone-0123456789"


def test_the_job_is_the_command_that_a_person_would_type(tmp_path: Path) -> None:
    assert entrypoint("smoke", ["run=a", "ppo.kl_coef=0.1"], ROOT, False) == (
        "python -m launch.cli run smoke run=a ppo.kl_coef=0.1"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my recipe.yaml").write_text("run: x")
    command = entrypoint(str(tmp_path / "mine" / "my recipe.yaml"), [], tmp_path, True)
    assert command == "python -m launch.cli run 'mine/my recipe.yaml' --fresh"


def test_a_recipe_outside_the_working_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("run: x")
    with pytest.raises(BadInput, match="working directory"):
        entrypoint(str(tmp_path / "recipe.yaml"), [], ROOT, False)


def test_a_home_directory_is_not_sent_to_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path, Path("/"), tmp_path / "none"):
        with pytest.raises(BadInput, match="--working-dir"):
            entrypoint("smoke", [], folder, False)


@pytest.mark.parametrize("runs", [None, "", "runs", "~/runs"])
def test_runs_that_would_go_away_with_the_job_are_refused(runs: str | None) -> None:
    with pytest.raises(BadInput, match="--runs"):
        job_environment(runs, [])


@pytest.mark.parametrize("pair", ["WANDB_API_KEY=x", "hf_token=x", "AWS_SECRET_ACCESS_KEY=x", "DB_PASSWORD=x"])
def test_a_secret_is_refused_and_not_repeated(pair: str) -> None:
    with pytest.raises(BadInput, match="secret") as refused:
        job_environment("/runs", [pair])
    assert "=x" not in str(refused.value)


def test_the_environment_is_what_was_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDEX_CACHE", "/home/me")  # a path of this machine means nothing on a cluster
    given = job_environment("/runs", ["TOKENIZERS_PARALLELISM=false"])
    assert given == {"LEDEX_RUNS": "/runs", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def test_the_token_is_found_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert auth_token({}) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("default\n")
    (tmp_path / "other").write_text("named")
    assert auth_token({}) == "default"
    assert auth_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}) == "named"
    assert auth_token({"RAY_AUTH_TOKEN": "direct", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}) == "direct"
    assert auth_token({"RAY_AUTH_MODE": "disabled"}) is None


def job(recipe: Recipe, fresh: bool) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id="ledex-run-1",
        status=JobStatus.RUNNING,
        entrypoint="",
        metadata=job_metadata(recipe, "/runs", fresh),
    )


def test_a_run_is_followed_in_its_own_job_and_not_in_that_of_a_fresh_one() -> None:
    recipe = Recipe()
    assert under_way([job(recipe, False)], recipe, "/runs", ADDRESS) == "ledex-run-1"
    assert under_way([job(recipe, False)], recipe, "/others", ADDRESS) is None
    assert under_way([job(recipe, True)], recipe, "/runs", ADDRESS) is None  # that one's run is called run-2


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "http://127.0.0.1:9"])
def test_an_address_where_no_dashboard_is_says_what_one_looks_like(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(BadInput, match=r"--address.*http://"):
        connect(address)


@contextmanager
def head_with_token(folder: Path) -> Iterator[dict[str, str]]:
    """A real head on loopback that asks for a token; the environment of a client that has it."""
    token = folder / "token"
    token.write_text(TOKEN)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": path}
    start = ["ray", "start", "--head", "--num-cpus=2", "--disable-usage-stats", "--object-store-memory=300000000"]
    started = run(*start, "--node-ip-address=127.0.0.1", "--resources", json.dumps({"sandbox": 2}), env=env)
    assert started.returncode == 0, started.stderr
    try:
        yield env
    finally:
        run("ray", "stop", "--force", env=env)  # this namespace's processes alone


def submit(env: dict[str, str], *arguments: str, timeout: float = 400.0) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `ledex submit`."""
    done = run(sys.executable, "-m", "launch.cli", "submit", *arguments, "--address", ADDRESS, env=env, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@isolated
def test_a_run_is_submitted_stopped_continued_refused_and_found_finished(tiny_llama: Path, tmp_path: Path) -> None:
    """One test for the whole life of a job: each step stands on the one before, and a head takes long to start."""
    runs = tmp_path / "runs"
    recipe = ["smoke", "run=job", f"model={tiny_llama}", "stages=[synthesize]", "model.dtype=float32",
              "problems.limit=2", "synthesis.solve.n=2", "synthesis.solve.max_tokens=16",
              "synthesis.refine.max_tokens=16", "rollout.kv_cache_gb=0.25", "tracking.wandb=disabled"]  # fmt: skip
    with head_with_token(tmp_path) as env:
        code, _, errors = submit(env | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, *recipe, "--runs", str(runs))
        assert code == 2 and "without a token" in errors

        code, _, errors = submit(env, *recipe, "--runs", str(runs))
        assert code == 0 and "submitted ledex-job-1: python -m launch.cli run smoke run=job" in errors
        _wait_for(runs / "job" / "recipe.yaml")
        code, _, errors = submit(env, *recipe, "--runs", str(runs))
        assert code == 0 and "under way as ledex-job-1" in errors  # no second driver for the same run
        code, _, errors = submit(env, *recipe, "synthesis.seed=1", "--runs", str(runs))
        assert code == 2 and "another recipe" in errors and "ray job stop ledex-job-1" in errors

        auth = env | {"RAY_ADDRESS": ADDRESS}
        assert run("ray", "job", "stop", "ledex-job-1", env=auth).returncode == 0
        assert not (runs / "job" / "synthesis" / "DONE.json").exists()

        code, output, errors = submit(env, *recipe, "--runs", str(runs), "--follow")
        assert code == 0, output + errors
        assert "ledex-job-2: SUCCEEDED" in errors and "starting 1 rollout engine" in output
        assert (runs / "job" / "synthesis" / "DONE.json").exists()

        code, output, errors = submit(env, *recipe, "--runs", str(runs), "--follow")
        assert code == 0 and "already finished" in output and "starting" not in output

        code, output, errors = submit(env, *recipe, "synthesis.seed=1", "--runs", str(runs), "--follow")
        assert code == 2, output + errors  # the job's own exit code: refused by the run directory
        assert "differing keys: synthesis.seed" in output and "ledex-job-4: FAILED" in errors

        given = json.dumps({"env_vars": {"LEDEX_RUNS": str(runs)}, "excludes": [".git", ".venv", "runs"]})
        command = ["python", "-m", "launch.cli", "run", *recipe]  # by hand, as docs/cluster.md says
        by_hand = run(
            "ray", "job", "submit", "--working-dir", ".", "--runtime-env-json", given, "--", *command, env=auth
        )
        assert by_hand.returncode == 0 and "already finished" in by_hand.stdout + by_hand.stderr


def _wait_for(path: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.5)


@pytest.mark.acceptance
@isolated
def test_the_smoke_pipeline_as_a_job_stopped_in_the_middle_and_submitted_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with head_with_token(tmp_path) as env:
        assert submit(env, "smoke", "--runs", str(runs))[0] == 0
        _wait_for(runs / "smoke" / "synthesis" / "DONE.json", 900)
        time.sleep(5)
        assert run("ray", "job", "stop", "ledex-smoke-1", env=env | {"RAY_ADDRESS": ADDRESS}).returncode == 0
        code, output, errors = submit(env, "smoke", "--runs", str(runs), "--follow", timeout=1500)
        assert code == 0, output[-4000:] + errors[-2000:]
        assert "synthesize: already finished" in output
        assert (runs / "smoke" / "report" / "report.html").exists()
