"""Synthesis: solve, judge, diagnose, refine, verify (LeDex, sections 3.1 and 4.1).

`synthesis/solve` holds attempts, `synthesis/refine` refinements; both resume at the items that no part holds.
Beside the model's own failures there may be seeded bugs (method.md, section 7), marked as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from launch.canonical_refinements import SOURCE, canonical_refinements
from launch.console import log, task
from launch.endpoint import Endpoint
from launch.fleet import Fleet
from launch.jobs import Item, Judged, Unanswered, executed, item_seed, provenance, sample_and_judge
from launch.parts import Parts, PartWriter
from launch.rundir import RunDirectory
from launch.seeding import seeded_trajectories
from launch.synthesis_summary import summarize, table_1
from launch.teaching import taught, teacher_cost
from launch.training_set import training_set
from ledex_ray.chat import Renderer
from ledex_ray.config import Recipe, SamplingConfig
from ledex_ray.problems import Problem
from ledex_ray.prompts import PROMPT_VERSION, refine_prompt, solve_prompt
from ledex_ray.records import SAMPLED, Attempt, Instruction, Refinement, Status, Trajectory

STAGE = "synthesis"
SEEDED_A_PART = 1000


def synthesize(run: RunDirectory, fleet: Fleet) -> None:
    """Runs or resumes the stage; its summary is the paper's Table 1 for this run."""
    recipe, problems = run.recipe, training_set(run, fleet)
    attempts, long_problems = _solve(run, fleet, problems)
    wrong = pick_wrong(attempts, recipe.synthesis.max_wrong_per_problem)
    refinements, long_wrong = _refine(run, fleet, problems, wrong)
    if recipe.synthesis.canonical_refinements:
        _refine_canonically(run, fleet, problems, wrong)
    if recipe.synthesis.seeded_bugs:
        _seed_bugs(run, fleet, problems)
    summary = summarize(attempts, wrong, refinements, load_trajectories(run))
    summary |= {"problems_too_long": long_problems, "wrong_too_long": long_wrong}
    rows = table_1(attempts, refinements, {p.id: p.benchmark for p in problems.values()})
    log.info("synthesis: %s", ", ".join(f"{k} {v}" for k, v in summary.items()))
    run.finish(STAGE, summary | teacher_cost(refinements, recipe) | {"table": rows})


def load_attempts(run: RunDirectory) -> list[Attempt]:
    """Every attempt of the run, the model's own and seeded ones."""
    return Parts(run.root / STAGE / "solve", Attempt).read()


def load_trajectories(run: RunDirectory) -> list[Trajectory]:
    """Every wrong attempt that has refinements, with all of them."""
    by_attempt: dict[str, list[Refinement]] = {}
    for refinement in Parts(run.root / STAGE / "refine", Refinement).read():
        by_attempt.setdefault(refinement.attempt_id, []).append(refinement)
    attempts = {a.id: a for a in load_attempts(run)}
    return [
        Trajectory(attempts[id], shown_feedback(run.recipe, attempts[id]), tuple(refinements))
        for id, refinements in sorted(by_attempt.items())
    ]


def shown_feedback(recipe: Recipe, attempt: Attempt) -> str:
    """The feedback that a prompt may show under this recipe."""
    return attempt.verdict.feedback_all if recipe.problems.feedback == "all" else attempt.verdict.feedback


def pick_wrong(attempts: Sequence[Attempt], most: int) -> list[Attempt]:
    """The distinct wrong solutions, at most so many a problem; an infrastructure fault is not a wrong solution."""
    picked: list[Attempt] = []
    seen: dict[str, set[str]] = {}
    for attempt in sorted(attempts, key=lambda a: (a.problem_id, a.index)):
        codes = seen.setdefault(attempt.problem_id, set())
        usable = attempt.code and attempt.verdict.status not in (Status.PASSED, Status.INFRA, Status.REJECTED)
        form = attempt.normal_hash or attempt.code.strip()
        if usable and len(codes) < most and form not in codes:
            codes.add(form)
            picked.append(attempt)
    return picked


def to_attempt(judged: Judged, index: int, model: str, revision: str = "") -> Attempt:
    """One completion of a solve item as a record."""
    completion, score = judged.completions[index], judged.scores[index]
    return Attempt(
        id=f"{judged.item.problem_id}#{index}",
        problem_id=judged.item.problem_id,
        index=index,
        text=completion.text,
        code=score.terms.answer.code,
        verdict=executed(score),
        provenance=provenance(judged.item, completion, "model", model, PROMPT_VERSION, revision),
        normal_hash=score.terms.normal_hash,
    )


def to_refinement(judged: Judged, index: int, model: str, source: str, revision: str = "") -> Refinement:
    """One completion of a refine item as a record."""
    completion, score = judged.completions[index], judged.scores[index]
    attempt_id = judged.item.id
    return Refinement(
        id=f"{attempt_id}/{judged.item.instruction}{index}",
        attempt_id=attempt_id,
        problem_id=judged.item.problem_id,
        index=index,
        instruction=Instruction(judged.item.instruction),
        text=completion.text,
        explanation=score.terms.answer.explanation,
        code=score.terms.answer.code,
        verdict=executed(score),
        provenance=provenance(judged.item, completion, source, model, PROMPT_VERSION, revision),
        copied=score.terms.copied,
    )


def solve_item(problem: Problem, renderer: Renderer, sampling: SamplingConfig, seed: int, shots: int = 0) -> Item:
    """A prompt for first solutions of one problem; its engine seed is drawn from `seed` and the problem."""
    return Item(
        id=problem.id,
        problem_id=problem.id,
        prompt_ids=tuple(renderer.prompt_ids(solve_prompt(problem, shots))),
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=item_seed(seed, problem.id),
        instruction="solve",
        stop=renderer.stop,
    )


def refine_item(
    id: str,
    problem: Problem,
    wrong_code: str,
    feedback: str,
    instruction: Instruction,
    renderer: Renderer,
    sampling: SamplingConfig,
    seed: int,
    shots: int = 0,
) -> Item:
    """A prompt for refinements of one wrong program; its engine seed is drawn from `seed` and the id."""
    prompt = refine_prompt(problem, wrong_code, feedback, instruction, shots)
    return Item(
        id=id,
        problem_id=problem.id,
        prompt_ids=tuple(renderer.prompt_ids(prompt)),
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=item_seed(seed, id),
        instruction=instruction,
        wrong_code=wrong_code,
        stop=renderer.stop,
    )


def fits(item: Item, max_length: int) -> bool:
    """Whether the engine can hold the prompt and its longest answer."""
    return len(item.prompt_ids) + item.max_tokens <= max_length


def fitting(items: Sequence[Item], max_length: int) -> tuple[list[Item], int]:
    """The items that fit, and how many do not; the log says so."""
    kept = [item for item in items if fits(item, max_length)]
    too_long = len(items) - len(kept)
    if too_long:
        log.warning("%d prompts do not fit in model.max_length=%d and are left out", too_long, max_length)
    return kept, too_long


def _solve(run: RunDirectory, fleet: Fleet, problems: Mapping[str, Problem]) -> tuple[list[Attempt], int]:
    """The model's attempts, and how many problems were too long to be asked."""
    recipe = run.recipe
    parts = Parts(run.root / STAGE / "solve", Attempt, run.commit)
    done = {a.problem_id for a in parts.read() if a.provenance.source == "model"}
    items = [
        solve_item(p, fleet.renderer, recipe.synthesis.solve, recipe.synthesis.seed, recipe.synthesis.shots)
        for p in problems.values()
        if p.id not in done
    ]
    items, too_long = fitting(items, recipe.model.max_length)
    if items:
        fleet.serve(fleet.model_path, 0)
    revision = fleet.revision(recipe.model.name)
    passed = total = 0
    with task("synthesis: solve", len(items)) as bar, PartWriter(parts) as writer:
        for judged in sample_and_judge(items, problems, fleet, answered=len(done)):
            attempts = [to_attempt(judged, i, recipe.model.name, revision) for i in range(len(judged.completions))]
            writer.add(attempts)
            passed, total = passed + sum(a.verdict.passed for a in attempts), total + len(attempts)
            bar.advance(note=f"{passed}/{total} solutions pass")
    own = [a for a in parts.read() if a.provenance.source == "model" and a.problem_id in problems]
    return own, too_long


def _refine(
    run: RunDirectory, fleet: Fleet, problems: Mapping[str, Problem], wrong: Sequence[Attempt]
) -> tuple[list[Refinement], int]:
    """The sampled refinements, and how many wrong solutions were too long to ask for one."""
    recipe, too_long = run.recipe, 0
    parts = Parts(run.root / STAGE / "refine", Refinement, run.commit)
    done = {r.attempt_id for r in parts.read() if r.provenance.source in SAMPLED}
    left = [(a, shown_feedback(recipe, a)) for a in wrong if a.id not in done]
    if recipe.synthesis.endpoint is not None:
        endpoint = Endpoint(recipe.synthesis.teacher or "", recipe.synthesis.endpoint, answered=bool(done))
        _keep(parts, taught(recipe, endpoint, problems, left, fleet.sandbox.client()), len(left))
    elif left:
        with fleet.teacher(recipe.synthesis.teacher) as (engines, renderer):
            items = [
                refine_item(
                    attempt.id,
                    problems[attempt.problem_id],
                    attempt.code,
                    feedback,
                    Instruction.EXPLAIN,
                    renderer,
                    recipe.synthesis.refine,
                    recipe.synthesis.seed,
                    recipe.synthesis.shots,
                )
                for attempt, feedback in left
            ]
            items, too_long = fitting(items, recipe.model.max_length)
            if items and recipe.synthesis.teacher is None:
                fleet.serve(fleet.model_path, 0)
            model = recipe.synthesis.teacher or recipe.model.name
            source, revision = "teacher" if recipe.synthesis.teacher else "model", fleet.revision(model)
            sampled = sample_and_judge(items, problems, fleet, engines, answered=len(wrong) - len(left))
            rows = ([to_refinement(j, i, model, source, revision) for i in range(len(j.completions))] for j in sampled)
            _keep(parts, rows, len(items))
    asked = {a.id for a in wrong}
    found = [r for r in parts.read() if r.provenance.source in SAMPLED and r.attempt_id in asked]
    answered = len({r.attempt_id for r in found})
    if recipe.synthesis.endpoint is not None and 2 * answered < len(wrong):
        raise Unanswered(
            f"the endpoint answered {answered} of {len(wrong)} questions, its reasons are in the log; "
            "what is done is kept, the same command goes on"
        )
    return found, too_long


def _keep(parts: Parts[Refinement], judged: Iterable[list[Refinement]], count: int) -> None:
    """Writes the refinements of one wrong solution after the other."""
    passed = total = 0
    with task("synthesis: refine", count) as bar, PartWriter(parts) as writer:
        for rows in judged:
            writer.add(rows)
            passed, total = passed + sum(r.verdict.passed for r in rows), total + len(rows)
            bar.advance(note=f"{passed}/{total} refinements pass")


def _refine_canonically(
    run: RunDirectory, fleet: Fleet, problems: Mapping[str, Problem], wrong: Sequence[Attempt]
) -> None:
    parts = Parts(run.root / STAGE / "refine", Refinement, run.commit)
    done = {r.attempt_id for r in parts.read() if r.provenance.source == SOURCE}
    left = [(a, shown_feedback(run.recipe, a)) for a in wrong if a.id not in done]
    with task("synthesis: canonical refinements", len(left)) as bar, PartWriter(parts) as writer:
        for refinement in canonical_refinements(problems, left, fleet.sandbox.client()):
            writer.add([refinement])
            bar.advance()


def _seed_bugs(run: RunDirectory, fleet: Fleet, problems: Mapping[str, Problem]) -> None:
    attempts = Parts(run.root / STAGE / "solve", Attempt, run.commit)
    refinements = Parts(run.root / STAGE / "refine", Refinement, run.commit)
    have_attempts = {a.id for a in attempts.read() if a.provenance.source == "seeded"}
    have_refinements = {r.problem_id for r in refinements.read() if r.provenance.source == "seeded"}
    left = [p for p in problems.values() if p.id not in have_refinements]
    rng_seed, count = run.recipe.synthesis.seed, run.recipe.synthesis.seeded_bugs
    new_attempts: list[Attempt] = []
    new_refinements: list[Refinement] = []
    made = 0

    def store() -> None:
        # Attempts first: a refinement whose attempt is missing would be an orphan after a kill between the two.
        attempts.append(new_attempts)
        refinements.append(new_refinements)
        new_attempts.clear()
        new_refinements.clear()

    with task("synthesis: seeded bugs", len(left)) as bar:
        for found in seeded_trajectories(left, fleet.sandbox.client(), count, rng_seed, run.recipe.problems.feedback):
            new_attempts += [t.attempt for t in found if t.attempt.id not in have_attempts]
            new_refinements += [r for t in found for r in t.refinements]
            made += len(found)
            if len(new_refinements) >= SEEDED_A_PART:
                store()
            bar.advance(note=f"{made} bugs with their fixes")
    store()
