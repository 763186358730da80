"""What the scorer is asked and what it answers: plain, frozen data that travels between processes.

One `TextJob` holds everything about one answer that is read as *text*; one `TextTerms` holds everything that reading it
gave. Nothing here is a reward yet: `reward.compose` makes one from the terms, the verdict and the similarity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ledex_ray.answers import Answer

Weights = tuple[float, float, float, float]

PACKAGE_WEIGHTS: Weights = (0.25, 0.25, 0.25, 0.25)
"""The `codebleu` package's default; CodeBLEU's own paper (arXiv 2009.10297) proposes (0.1, 0.1, 0.4, 0.4)."""


@dataclass(frozen=True)
class CodeBleuScore:
    """CodeBLEU with its four components, each in [0, 1]: the mean over references of the single-reference values."""

    score: float
    ngram: float
    weighted_ngram: float
    syntax: float
    dataflow: float


ZERO_CODEBLEU = CodeBleuScore(0.0, 0.0, 0.0, 0.0, 0.0)
"""The defined score of text that is over the size cap or could not be scored within the CPU limit."""


@dataclass(frozen=True)
class TextJob:
    """One answer to read: either `text`, from which the code is parsed, or `code` itself.

    `references` is R_w: the correct refinements of the wrong code and the canonical solutions. `repaired` asks for the
    repaired CodeBLEU of the answer and of `wrong_code` as well (the `hardened` arm). Without `read` the code is passed
    on as it is, and nothing is found out about it: for those who want its verdict alone.
    """

    id: str
    text: str | None = None
    code: str | None = None
    instruction: str = "direct"
    entry_point: str = ""
    wrong_code: str | None = None
    references: tuple[str, ...] = ()
    codebleu: bool = True
    weights: Weights = PACKAGE_WEIGHTS
    repaired: bool = False
    read: bool = True

    def __post_init__(self) -> None:
        if (self.text is None) == (self.code is None):
            raise ValueError(f"job {self.id}: give either text or code")
        if not self.read and (self.code is None or self.codebleu):
            raise ValueError(f"job {self.id}: only plain code can stay unread")


@dataclass(frozen=True)
class TextTerms:
    """What reading one answer gave. Terms that were not asked for, or have no reference, are None.

    `unscored` names each term that got its defined score instead of a measured one, and why
    ("codebleu: CPU limit"); the answer's own text is the cause, so it is never masked.
    """

    id: str
    answer: Answer
    parses: bool = False  # the code is not empty and `ast.parse` takes it
    codebleu: CodeBleuScore | None = None  # the package's form
    codebleu_repaired: CodeBleuScore | None = None
    codebleu_wrong: CodeBleuScore | None = None  # repaired form, of the wrong code: S(w)
    copied: bool = False  # equal to the wrong code by AST
    renamed_copy: bool = False  # equal to it once variables are renamed away
    n_nodes: int = 0  # AST nodes of the answer; 0 where it does not parse
    n_ref_nodes: float = 0.0  # AST nodes of the median reference
    normal_hash: str = ""  # equal for programs that are equal by AST; for code that does not parse, by its words
    unscored: tuple[str, ...] = field(default=())
