"""What the stages write to disk: attempts, verdicts, refinements, trajectories.

A *trajectory* is one wrong solution with its feedback and every (explanation, refinement) asked for it
(LeDex, section 3.1). All records are frozen, plain data; `ledex_ray.tables` moves them to and from Parquet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Status(StrEnum):
    """The verdict on one program. INFRA alone is our own fault: it is retried, then masked, never a reward."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    ERROR = "ERROR"
    TIMEOUT = "TIMEOUT"
    MEMORY = "MEMORY"
    CRASHED = "CRASHED"
    REJECTED = "REJECTED"
    INFRA = "INFRA"


class TestStatus(StrEnum):
    """The outcome of one test; `not_run` counts as not passed."""

    __test__ = False  # not a pytest class

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    OPAQUE = "opaque"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test of one program; texts are shortened, empty where they do not apply."""

    __test__ = False

    index: int
    public: bool
    status: TestStatus
    call: str = ""
    expected: str = ""
    got: str = ""
    error: str = ""
    line: int = 0  # line in the solution where an exception was raised; 0 when unknown


MOST_TOLD = 20  # tests whose texts are stored with a verdict


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one program. `weak` verdicts could have been forged (SANDBOX: shared objects)."""

    status: Status
    tests: tuple[TestResult, ...] = ()
    weak: bool = False
    tier: str = ""
    feedback: str = ""  # from public tests alone; what a prompt may show
    feedback_all: str = ""  # from all tests: the paper's setting
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_mb: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status is Status.PASSED

    @property
    def n_passed(self) -> int:
        return sum(t.status is TestStatus.PASSED for t in self.tests)

    @property
    def n_tests(self) -> int:
        return len(self.tests)

    @property
    def kept(self) -> Verdict:
        """What is stored of it, as a run has hundreds of thousands: the texts of the first tests that did not pass."""
        told = [test for test in self.tests if test.status is not TestStatus.PASSED][:MOST_TOLD]
        told_at = {test.index for test in told}
        short = (t if t.index in told_at else TestResult(t.index, t.public, t.status) for t in self.tests)
        return replace(self, tests=tuple(short))

    @property
    def pass_ratio(self) -> float:
        """S_ut of the method: tests passed / tests; 0 for a program without tests."""
        return self.n_passed / self.n_tests if self.tests else 0.0


class Instruction(StrEnum):
    """Under which instruction a refinement was asked for (LeDex, section 3.2)."""

    DIRECT = "direct"
    EXPLAIN = "explain"


SAMPLED = ("model", "teacher")  # sources whose texts a model wrote, under one of our prompts


@dataclass(frozen=True)
class Provenance:
    """Where a text came from; enough to make it again."""

    source: str  # "model", "teacher", "seeded" or "canonical"
    model: str = ""
    prompt_version: str = ""
    temperature: float = 0.0
    seed: int = 0
    n_prompt_tokens: int = 0
    n_tokens: int = 0
    revision: str = ""  # of the model: hub commit, package version, or what an endpoint says that it served


@dataclass(frozen=True)
class Attempt:
    """One initial solution of a problem with its verdict. `code` is empty where the answer held none."""

    id: str  # "<problem id>#<index>", unique in a run and source
    problem_id: str
    index: int
    text: str
    code: str
    verdict: Verdict
    provenance: Provenance
    normal_hash: str = ""  # equal for programs that are equal by AST


@dataclass(frozen=True)
class Refinement:
    """One answer to "here is wrong code and its feedback": explanation (may be empty), code, verdict."""

    id: str  # "<attempt id>/<instruction><index>"
    attempt_id: str
    problem_id: str
    index: int
    instruction: Instruction
    text: str
    explanation: str
    code: str
    verdict: Verdict
    provenance: Provenance
    copied: bool = False  # equal to the wrong code by AST


@dataclass(frozen=True)
class Trajectory:
    """A wrong attempt, the feedback shown, and every refinement asked for it."""

    attempt: Attempt
    feedback: str
    refinements: tuple[Refinement, ...]

    @property
    def verified(self) -> tuple[Refinement, ...]:
        """The refinements that pass every test with a verdict that cannot be forged."""
        return tuple(r for r in self.refinements if r.verdict.passed and not r.verdict.weak)
