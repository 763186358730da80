"""A run directory as the stages write it, small, with answers that a hostile model might write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from launch.parts import Parts
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.episodes import Episode
from ledex_ray.evaluation import Sample
from ledex_ray.recipes import dump_recipe, recipe_from_tree
from ledex_ray.records import Attempt, Instruction, Provenance, Refinement, Status, TestResult, TestStatus, Verdict

HOSTILE = (
    "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>\x1b[31mred\x1b[0m "
    "\u202egnirts\u2066 {{ 7 * 7 }} &lt; ]]> '\" javascript:alert(1) \x00\x07 שלום " + "x" * 200_000
)
WRONG = "def add(a, b):\n    return a - b\n"
RIGHT = "def add(a, b):\n    return a + b\n"


def verdict(status: Status, text: str = "5") -> Verdict:
    outcome = TestStatus.PASSED if status is Status.PASSED else TestStatus.FAILED
    tests = (
        TestResult(0, True, TestStatus.PASSED, "add(0, 0)", "0", "0"),
        TestResult(1, False, outcome, "add(2, 3)", "5", text),
    )
    said = "All tests pass." if status is Status.PASSED else f"The call add(2, 3) returned {text}, but 5 was expected."
    return Verdict(status, tests, tier="B", feedback=said, feedback_all=said)


def attempt(number: int, code: str = WRONG, text: str = "") -> Attempt:
    status = Status.PASSED if code == RIGHT else Status.FAILED
    said = verdict(status, text or "-1")
    made = Provenance("model", "tiny", "", 1.0, 0, 10, 20)
    return Attempt(f"add#{number}", "add", number, text or code, code, said, made, str(number))


def refinement(of: Attempt, number: int, code: str, explanation: str) -> Refinement:
    return Refinement(
        id=f"{of.id}/explain{number}",
        attempt_id=of.id,
        problem_id=of.problem_id,
        index=number,
        instruction=Instruction.EXPLAIN,
        text=explanation + code,
        explanation=explanation,
        code=code,
        verdict=verdict(Status.PASSED if code == RIGHT else Status.FAILED, explanation),
        provenance=Provenance("model", "tiny", "", 0.8, 0, 30, 40),
        copied=code == WRONG,
    )


def episode(tokenizer: Tokenizer, iteration: int, number: int, text: str, reward: float) -> Episode:
    """One PPO answer to add#0; its explanation is the first ten characters."""
    prompt, answer = tokenizer.encode("Fix it.").ids, tokenizer.encode(text).ids[:4000]
    length = len(prompt) + len(answer)
    mask = np.arange(length) >= len(prompt)
    rewards = np.zeros(length, dtype=np.float32)
    rewards[len(prompt) + 9], rewards[-1] = -1.0, reward + 1.0
    return Episode(
        id=f"{iteration:08d}/add#0/explain/{number}",
        group_id=f"{iteration:08d}/add#0/explain",
        problem_id="add",
        instruction="explain",
        token_ids=np.asarray([*prompt, *answer], dtype=np.int32),
        loss_mask=mask,
        behaviour_log_probs=np.where(mask, -0.5 * (np.arange(length) % 12), 0).astype(np.float32),
        weight_versions=np.where(mask, iteration, -1).astype(np.int32),
        rewards=rewards,
        explanation_end=len(prompt) + 9,
        temperature=1.0,
        terms={"tests_passed": 0.5, "codebleu": 0.25},
        text=text,
        verdict="PASSED" if reward > 0 else "FAILED",
        feedback="" if reward > 0 else f"add({number}, 2) returned {HOSTILE[:200]}",
        n_tests=2,
        failed_tests=() if reward > 0 else (TestResult(1, False, TestStatus.FAILED, "add(1, 2)", "3", HOSTILE[:80]),),
    )


def sample(number: int, mode: str, code: str, text: str, parent: str = "add", **changes: object) -> Sample:
    passed = code == RIGHT
    fields: dict[str, object] = {
        "id": f"jsonl/add@prompt/{mode}/{number}", "parent_id": parent, "problem_id": "jsonl/add", "index": number,
        "label": "prompt", "stage": "prompt", "mode": mode, "round": 0 if mode == "initial" else 1,
        "bugs": "null" if mode == "initial" else "own", "passed": passed, "weak": False,
        "status": "PASSED" if passed else "FAILED", "copied": code == WRONG, "n_prompt_tokens": 50, "n_tokens": 50,
        "normal_hash": "", "wrong_code": "" if mode == "initial" else WRONG, "feedback": text[:300],
        "explanation": "", "code": code, "text": text,
    }  # fmt: skip
    return Sample(**(fields | changes))  # type: ignore[arg-type]


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of single bytes: a letter outside ASCII is several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_run(root: Path) -> Path:
    """The run: 3 attempts, 3 refinements, 4 episodes of 2 iterations, 3 evaluation samples; one of each is hostile."""
    root.mkdir(parents=True)
    tree = {"run": root.name, "problems": {"train": "bundled@train"}}
    (root / "recipe.yaml").write_text(dump_recipe(recipe_from_tree(tree)))
    attempts = [attempt(0), attempt(1, RIGHT), attempt(2, HOSTILE, HOSTILE)]
    Parts(root / "synthesis/solve", Attempt).append(attempts)
    fixes = [
        refinement(attempts[0], 0, RIGHT, "It subtracts."),
        refinement(attempts[0], 1, WRONG, "Nothing is wrong."),
        refinement(attempts[2], 0, HOSTILE[::-1], HOSTILE),
    ]
    Parts(root / "synthesis/refine", Refinement).append(fixes)
    tokenizer = byte_tokenizer()
    (root / "ppo").mkdir()
    tokenizer.save(str(root / "ppo/tokenizer.json"))
    store = EpisodeStore(root / "ppo/episodes")
    answer = f"It is wrong: naïve.\n```python\n{RIGHT}```"
    store.write(0, [episode(tokenizer, 0, 0, answer, 3.5), episode(tokenizer, 0, 1, answer, -2.0)])
    store.write(1, [episode(tokenizer, 1, 0, HOSTILE, -4.5), episode(tokenizer, 1, 1, answer, 4.5)])
    first = sample(0, "initial", WRONG, WRONG)
    rows = [first, sample(1, "explain", RIGHT, RIGHT, first.id), sample(2, "initial", HOSTILE, HOSTILE)]
    Parts(root / "evaluation/heldout/parts", Sample).append(rows)
    return root
