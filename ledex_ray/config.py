"""The recipe: one frozen pydantic model a stage. How one is read, told apart and written is recipes.py."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from ledex_ray.credentials import check_no_credentials
from ledex_ray.dotted import flatten


class Section(BaseModel):
    """Base of every part of a recipe: frozen, no key that nobody reads, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


Decay = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(Section):
    """The policy: a hub id, a path, or a packaged name."""

    name: str = Field(
        "smollm2-135m",
        description="A causal LM: packaged name, hub id (OWNER/NAME or OWNER/NAME@REVISION), path or URL.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Precision of engine and forward passes; auto probes this machine."
    )
    layout: Literal["auto", "chat", "plain"] = Field(
        "auto", description="Prompt layout; auto uses the chat template where the tokenizer has one."
    )
    max_length: int = Field(1024, ge=64, description="Longest prompt + answer, in tokens.")
    trust_remote_code: bool = Field(False, description="Run the Python code that a model brings along.")


class ProblemsConfig(Section):
    """Which problems each stage reads, as SPEC strings (docs/files.md)."""

    train: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "bundled@train", description="What synthesis and training read, one set or a list; no test or held-out problem."
    )
    validation: str = Field(
        "bundled@validation",
        description="PPO keeps the model that repairs the most bugs of these: one-edit mutants of canonical solutions.",
    )
    heldout: tuple[str, ...] = Field(("bundled@heldout",), description="What evaluation measures on.")
    limit: int | None = Field(None, ge=1, description="Use only N problems, taken evenly through each set.")
    feedback: Literal["all", "public"] = Field("public", description="Tests whose results a prompt may show.")
    allow_contaminated: bool = Field(
        False, description="Measure held-out problems that are trained or validated on too, under a name that says so."
    )

    @property
    def train_sets(self) -> tuple[str, ...]:
        """`train` as a list."""
        return (self.train,) if isinstance(self.train, str) else self.train


class SandboxConfig(Section):
    """The judge and its pool."""

    python: str | None = Field(None, description="Interpreter that runs candidates; default: the distribution's own.")
    floor: Literal["A", "B", "C", "none"] = Field("B", description="Weakest isolation tier accepted.")
    packages: tuple[str, ...] = Field(
        (), description="Folders of packages that programs may import, made by `pip install --target`, on every node."
    )
    actors: int | None = Field(
        None, ge=1, description="Sandbox actors; default: one a core of the cluster, or 1 with max_actors."
    )
    max_actors: int | None = Field(None, ge=1, description="The pool grows with its queue up to so many, and shrinks.")
    idle_seconds: float = Field(120.0, gt=0, description="After which sandboxes that nothing waits for are ended.")
    batch_size: int = Field(16, ge=1, description="Programs a Ray call.")
    cpu_seconds: float = Field(
        5.0, gt=0, description="CPU time of a program (stdin/stdout: of a case) whose problem has no limits of its own."
    )
    memory_mb: int = Field(
        1024, ge=64, description="Address space of a program whose problem has no limits of its own."
    )
    deadline_seconds: float = Field(180.0, gt=0, description="After which a silent call is killed and requeued.")

    @model_validator(mode="after")
    def _most_is_not_below_least(self) -> SandboxConfig:
        if self.max_actors is not None and self.max_actors < (self.actors or 1):
            raise ValueError(f"max_actors must be at least sandbox.actors={self.actors}")
        return self


class RolloutConfig(Section):
    """The vLLM engines."""

    actors: int = Field(1, ge=1, description="How many engines.")
    tensor_parallel: int = Field(
        1, ge=1, description="Workers over which an engine's weights are split, for a model too large for one GPU."
    )
    gpus: float = Field(
        0, ge=0, le=1, description="GPUs each of an engine's tensor_parallel workers; 0: the CPU engine."
    )
    placement: Literal["NODE", "PACK", "SPREAD"] = Field(
        "NODE", description="An engine's workers: all on one node, or over nodes by a placement group."
    )
    max_num_seqs: int = Field(64, ge=1, description="Answers that an engine writes at a time.")
    max_num_batched_tokens: int = Field(
        2048, ge=64, description="Tokens of one engine step; never below model.max_length."
    )
    kv_cache_gb: float = Field(1.0, gt=0, description="CPU engine: memory of the KV cache.")
    gpu_memory_utilization: float = Field(
        0.85, gt=0, le=1, description="GPU engine: its share of a GPU's memory, weights and KV cache together."
    )
    enforce_eager: bool = Field(True, description="No compilation, no CUDA graphs: ready sooner, but slower on GPUs.")
    threads: int | None = Field(None, ge=1, description="CPU engine: OpenMP threads; default: all cores.")
    weight_transfer: Literal["auto", "shm", "gloo", "nccl", "ipc"] = Field(
        "auto",
        description="auto: nccl between GPUs, ipc on one that is shared, shm on one CPU machine, gloo on several.",
    )
    deadline_seconds: float = Field(
        600.0, gt=0, description="Longest an engine may finish no request; it is then ended, and its work asked again."
    )
    ready_seconds: float = Field(600.0, gt=0, description="How long an engine may take to become ready.")

    @property
    def shares_a_gpu(self) -> bool:
        """Whether a learner's rank is on the engine's GPU, too."""
        return 0 < self.gpus < 1


class SamplingConfig(Section):
    """How answers are drawn. Training needs top_p = 1 (anything else biases the ratio)."""

    n: int = Field(8, ge=1, description="Answers a prompt.")
    temperature: float = Field(1.0, ge=0, description="0: the likeliest token each time.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the likeliest tokens with so much probability in all; 1: from all."
    )
    max_tokens: int = Field(256, ge=8, description="Longest answer.")

    @model_validator(mode="after")
    def _greedy_answers_are_all_alike(self) -> SamplingConfig:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"temperature 0 gives the same answer each time: n must be 1, not {self.n}")
        return self


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint that serves the teacher; `synthesis.teacher` is its name there."""

    url: str = Field("https://api.openai.com/v1", description="Base URL, up to and with /v1.")
    key_variable: str = Field(
        "OPENAI_API_KEY", description='Environment variable with the key; "" where none is needed.'
    )
    concurrency: int = Field(8, ge=1, description="Questions at a time.")
    requests_per_minute: int | None = Field(None, ge=1, description="Most requests begun in a minute; none: no limit.")
    retries: int = Field(8, ge=0, description="Of one request, with growing waits.")
    timeout_seconds: float = Field(180.0, gt=0, description="Of one request.")
    price_read: float = Field(0.0, ge=0, description="For a million prompt tokens, in any currency.")
    price_written: float = Field(0.0, ge=0, description="For a million generated tokens.")


class SynthesisConfig(Section):
    """Solve, judge, diagnose, refine, verify (LeDex, section 3.1)."""

    solve: SamplingConfig = SamplingConfig(n=20, temperature=1.0)
    refine: SamplingConfig = SamplingConfig(n=10, temperature=0.8)
    shots: int = Field(0, ge=0, le=3, description="Worked examples before each problem.")
    teacher: str | None = Field(None, description="Another model for explanations and refinements.")
    endpoint: EndpointConfig | None = Field(
        None, description="Where the teacher is served; none: by engines of our own."
    )
    max_wrong_per_problem: int = Field(20, ge=1, description="Different wrong solutions of a problem that are refined.")
    seeded_bugs: int = Field(0, ge=0, description="One-edit mutants of canonical solutions a training problem.")
    canonical_refinements: bool = Field(
        False, description="The canonical solution as a refinement of each wrong one, with an explanation made of both."
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _an_endpoint_serves_a_named_teacher(self) -> SynthesisConfig:
        if self.endpoint is not None and not self.teacher:
            raise ValueError("synthesis.endpoint needs synthesis.teacher: the model's name there")
        return self


class LoraConfig(Section):
    """Low-rank adapters (peft) instead of full fine-tuning."""

    rank: int = Field(16, ge=1, description="Rank of the update.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="In SFT; PPO uses none.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="Names of the layers that get adapters; all-linear: each but the output layer."
    )


class LearnerConfig(Section):
    """The DeepSpeed gang."""

    ranks: int = Field(1, ge=1, description="Processes that train together.")
    gpus: float = Field(0, ge=0, le=1, description="GPUs a rank; 0 trains on CPU over gloo.")
    zero_stage: Literal[1, 2, 3] = Field(
        1,
        description="Sharded over ranks: 1 optimizer states, 2 gradients too, 3 weights and reference model too.",
    )
    offload: bool = Field(False, description="Optimizer states lie in main memory, under ZeRO-3 weights too.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, slower."
    )
    lora: LoraConfig | None = Field(None, description="Train adapters; none: all weights.")
    tokens_per_micro_batch: int = Field(2048, ge=64, description="Padding-free budget of one forward pass.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads a rank; default: its node's cores / ranks, on GPUs by its share of those."
    )
    placement: Literal["PACK", "SPREAD"] = Field("PACK", description="Ranks on as few nodes as can be, or on as many.")
    keep_checkpoints: int = Field(2, ge=1, description="The newest so many stay while a stage trains.")
    keep_finished: bool = Field(
        False,
        description="Keep a finished stage's checkpoints too: optimizer, value head, weights of the last step.",
    )
    ready_seconds: float = Field(600.0, gt=0, description="How long the ranks may take to become ready.")
    deadline_seconds: float = Field(3600.0, gt=0, description="Longest one update or checkpoint may take.")


class OptimizerConfig(Section):
    """AdamW with warm-up."""

    lr: float = Field(2e-5, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="Of the rate after the warm-up; cosine and linear fall to 0."
    )
    clip_grad_norm: float = Field(1.0, gt=0)


class SFTConfig(Section):
    """Supervised fine-tuning on correct solutions and verified refinements (LeDex, section 3.2)."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-5, warmup_steps=500, schedule="cosine")
    epochs: int = Field(2, ge=1, description="Passes over the examples.")
    batch_size: int = Field(128, ge=1, description="Examples a step, over all ranks.")
    max_tokens: int | None = Field(None, ge=1000, description="Stop after this many training tokens in all.")
    max_examples_per_problem: int = Field(8, ge=1, description="Cap of each kind of example a problem gives.")
    kinds: tuple[Literal["solve", "direct", "explain"], ...] = Field(
        ("solve", "direct", "explain"),
        min_length=1,
        description="Examples: correct solutions, verified refinements, the same with their explanations.",
    )
    canonical: bool = Field(False, description="Also use the problem's canonical solutions as correct ones.")
    validation_fraction: float = Field(
        0.05, ge=0, lt=0.5, description="Share of the examples' problems that is held back for the validation loss."
    )
    patience: int | None = Field(None, ge=1, description="Stop after N evaluations without a lower validation loss.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints and validations.")
    seed: int = Field(0, ge=0)


class RewardConfig(Section):
    """The arms of the reward (method.md, section 2)."""

    arm: str = Field("paper", description="paper, tests_only, codebleu_only, hardened, or module:function.")
    codebleu_weights: tuple[float, float, float, float] = Field(
        (0.25, 0.25, 0.25, 0.25), description="Of n-grams, weighted n-grams, syntax, data flow; their sum is 1."
    )
    encoder: str = Field("minilm", description="Sentence encoder: packaged name, hub id or path.")
    separated: bool = Field(False, description="Two returns, so that R(r) does not flow into the explanation.")
    allow_weak: bool = Field(
        False, description="Train on problems whose verdicts a program could forge, too (judge.md, weak mode)."
    )
    max_references: int = Field(
        10, ge=1, description="Most references of one wrong solution; canonical solutions and refinements by turns."
    )

    @model_validator(mode="after")
    def _weights_are_shares(self) -> RewardConfig:
        if not all(w >= 0 for w in self.codebleu_weights) or abs(sum(self.codebleu_weights) - 1) > 1e-6:
            raise ValueError("reward.codebleu_weights must be four numbers from 0 with sum 1")
        return self


class PPOConfig(Section):
    """The policy update (method.md, section 3)."""

    algorithm: Literal["ppo", "grpo", "rloo", "reinforce++"] = Field(
        "ppo",
        description="Advantages: from a value head (ppo), within a group (grpo, rloo), rewards to go (reinforce++).",
    )
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-6)
    iterations: int = Field(100, ge=1, description="Batches sampled and learned from.")
    prompts_per_iteration: int = Field(
        16, ge=1, description="(wrong solution, instruction) pairs a batch, each with ppo.sampling.n answers."
    )
    max_prompts: int | None = Field(
        None, ge=1, description="Train on so many (wrong solution, instruction) pairs, drawn once; default: on all."
    )
    sampling: SamplingConfig = SamplingConfig(n=4, temperature=1.0)
    instructions: tuple[Literal["direct", "explain"], ...] = Field(
        ("direct", "explain"),
        min_length=1,
        description="What is asked for: a refinement, or an explanation and then a refinement.",
    )
    turns: int = Field(1, ge=1, description="Answers an episode may have, each after what public tests said.")
    minibatch_episodes: int = Field(64, ge=1, description="Episodes an optimizer step, over all ranks.")
    epochs: int = Field(1, ge=1, description="Passes over each batch.")
    clip_range: float = Field(0.2, gt=0, description="eps of the clipped ratio.")
    clip_range_high: float | None = Field(None, gt=0, description="eps_high; default: clip_range.")
    dual_clip: float | None = Field(
        None, gt=1, description="Bounds the loss of a negative advantage at so many times it; none: no bound."
    )
    value_clip: float | None = Field(
        None, gt=0, description="How far a value may move from its old one within a batch; none: as far as it will."
    )
    value_coef: float = Field(0.1, ge=0, description="Weight of the value loss.")
    value_lr: float | None = Field(None, gt=0, description="Learning rate of the value head; default: the policy's.")
    detach_value: bool = Field(False, description="The value loss does not reach the trunk.")
    separate_critic: bool = Field(False, description="A value model of its own; its trunk learns at the policy's rate.")
    critic_warmup: int = Field(1, ge=0, description="First iterations that train the value head alone.")
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount by token.")
    lam: float = Field(1.0, ge=0, le=1, description="Lambda of GAE.")
    kl_coef: float = Field(
        0.05, ge=0, description="Weight of the KL to the starting model; 0: no reference model is loaded."
    )
    kl_target: float | None = Field(
        None, gt=0, description="Adaptive KL controller's target in nats a token; none: fixed."
    )
    kl_placement: Literal["reward", "loss"] = Field(
        "reward", description="Where the KL counts: in each token's reward, or in the loss."
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="k1 or k3 in the reward, k2 or k3 in the loss.")
    tis_cap: float = Field(2.0, gt=0, description="C of truncated importance sampling.")
    old_policy: Literal["recomputed", "behaviour"] = Field(
        "recomputed",
        description="Denominator of the ratio: the learner's log-probs, corrected by tis_cap, or the engine's own.",
    )
    whiten_advantages: bool = Field(
        True, description="Under ppo; reinforce++ always whitens, grpo and rloo compare within groups instead."
    )
    loss_aggregation: Literal["token", "sequence"] = Field(
        "token", description="What weighs the same in the loss: each token, or each answer."
    )
    mask_truncated: bool = Field(False, description="Leave over-long answers out of the loss.")
    filter_groups: bool = Field(False, description="Replace groups whose rewards do not vary.")
    mode: Literal["synchronous", "asynchronous"] = Field(
        "synchronous", description="Asynchronous: the next batch is sampled while this one is learned from."
    )
    max_staleness: int = Field(1, ge=1, description="Asynchronous: versions that sampled weights may lag behind.")
    validate_every: int = Field(10, ge=1, description="Iterations between validations; the best model by them is kept.")
    validation_samples: int = Field(1, ge=1, description="Answers a validation prompt.")
    checkpoint_every: int = Field(5, ge=1, description="Iterations between checkpoints.")
    reload_tolerance: float = Field(0.1, gt=0, description="Largest mean |engine - learner| log-prob gap accepted.")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _kl_is_an_estimate_with_a_gradient(self) -> PPOConfig:
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_placement=loss with kl_estimator=k1 has zero expected gradient; use k2 or k3")
        if self.kl_placement == "reward" and self.kl_estimator == "k2":
            raise ValueError("kl_placement=reward takes kl_estimator k1 or k3")
        if self.sampling.top_p != 1.0:
            raise ValueError("ppo.sampling.top_p must be 1: anything else biases the importance ratio")
        if self.sampling.temperature <= 0:
            raise ValueError("ppo.sampling.temperature must be above 0: logits are divided by it")
        if self.algorithm in ("grpo", "rloo") and self.sampling.n < 2:
            raise ValueError(f"{self.algorithm} compares answers within a group: ppo.sampling.n must be at least 2")
        if self.filter_groups and self.sampling.n < 2:
            raise ValueError("ppo.filter_groups keeps groups that vary: ppo.sampling.n must be at least 2")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("ppo.kl_target adapts ppo.kl_coef, which must then start above 0")
        return self


class EvaluationConfig(Section):
    """What is measured on held-out problems (method.md, sections 6 and 8)."""

    sampling: SamplingConfig = SamplingConfig(n=10, temperature=0.8)
    k: tuple[PositiveInt, ...] = Field(
        (1, 10), min_length=1, description="Of pass@k; none above evaluation.sampling.n."
    )
    shots: int = Field(
        0, ge=0, le=3, description="Worked examples for models that were not trained here, as a base model needs them."
    )
    rounds: int = Field(1, ge=1, le=5, description="Refinements in a row of a sample that stays wrong.")
    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$")], str] = Field(
        {}, description="Other models to measure as well: label to hub id or path (LoRA adapters too)."
    )
    feedback: tuple[Literal["public", "all"], ...] = Field(
        (), description="Tests whose results refinements are shown, one pass each; none: problems.feedback."
    )
    modes: tuple[Literal["direct", "explain", "resample", "random_feedback", "no_feedback"], ...] = Field(
        ("direct", "explain", "resample"),
        description="Refinements, fresh samples at the cost of explain, and controls (method.md, section 6).",
    )
    bugs_per_problem: int = Field(4, ge=0, description="Wrong solutions a problem in the fixed bug set; 0: none.")
    bug_set: str | None = Field(
        None, description="bugs.parquet of an evaluation whose fixed bugs this one takes; none: its own."
    )
    bug_refinements: int = Field(1, ge=1, description="Refinements of each fixed bug and mode.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of an interval.")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _what_is_asked_can_be_measured(self) -> EvaluationConfig:
        if max(self.k) > self.sampling.n:
            raise ValueError(f"k={max(self.k)} needs at least as many samples, but sampling.n={self.sampling.n}")
        if "resample" in self.modes and "explain" not in self.modes:
            raise ValueError("evaluation.modes: resample spends what explain's refinements cost, so it needs explain")
        if self.sampling.temperature == 0 and "resample" in self.modes:
            raise ValueError("evaluation.modes: at temperature 0 there is nothing to resample; leave resample out")
        if self.sampling.temperature == 0 and self.bug_refinements > 1:
            raise ValueError("evaluation.bug_refinements must be 1 at temperature 0: they would all be alike")
        return self


class TrackingConfig(Section):
    """Where metrics go beside the run directory."""

    wandb: Literal["auto", "offline", "online", "disabled"] = Field(
        "auto", description="auto: online when an API key is set, else offline."
    )
    project: str = Field("ledex-ray", description="On wandb; a run's stages are grouped under its name.")
    mlflow: str | None = Field(
        None, description="Address of an MLflow server, e.g. http://HOST:5000; needs the extra `mlflow`."
    )
    tensorboard: bool = Field(False, description="Curves for TensorBoard as well, in the run's folder tensorboard/.")


Stage = Literal["synthesize", "sft", "ppo", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Recipe(Section):
    """Everything a run does. `recipe_hash` of two runs is equal iff they are the same experiment."""

    run: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run directory.")
    stages: tuple[Stage, ...] = Field(
        STAGES,
        min_length=1,
        description="What the run does, in this order; without sft PPO begins with the untrained model.",
    )
    model: ModelConfig = ModelConfig()
    problems: ProblemsConfig = ProblemsConfig()
    sandbox: SandboxConfig = SandboxConfig()
    rollout: RolloutConfig = RolloutConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    learner: LearnerConfig = LearnerConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _keys_stay_in_the_environment(self) -> Recipe:
        check_no_credentials(flatten(self.model_dump(mode="json")))
        return self

    @model_validator(mode="after")
    def _each_stage_comes_once_and_in_order(self) -> Recipe:
        if list(self.stages) != [stage for stage in STAGES if stage in self.stages]:
            raise ValueError(f"stages must be some of {', '.join(STAGES)}, in this order")
        return self

    @model_validator(mode="after")
    def _one_engine_and_one_rank_share_a_gpu(self) -> Recipe:
        shared = 0 < self.rollout.gpus < 1 or 0 < self.learner.gpus < 1
        counts = {
            "rollout.actors": self.rollout.actors,
            "rollout.tensor_parallel": self.rollout.tensor_parallel,
            "learner.ranks": self.learner.ranks,
        }
        several = next((key for key, count in counts.items() if count > 1), None)
        if shared and several is not None:
            raise ValueError(f"with a share of a GPU (gpus below 1) {several} must be 1: Ray would put shares together")
        return self

    @model_validator(mode="after")
    def _separated_at_one_place(self) -> Recipe:
        if self.reward.separated and self.ppo.turns > 1:
            raise ValueError("reward.separated parts an episode at the end of its explanation: ppo.turns must be 1")
        if self.reward.separated and self.ppo.algorithm in ("grpo", "rloo"):
            raise ValueError(
                f"reward.separated needs a return by token: ppo.algorithm must be ppo or reinforce++, "
                f"not {self.ppo.algorithm}"
            )
        return self
