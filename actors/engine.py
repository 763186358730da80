"""vLLM as this project sets it up: the engine, a request's parameters, and what comes out, in our own types."""

from __future__ import annotations

from typing import Any

from actors.generation import Completion, GenerationRequest
from ledex_ray.config import ModelConfig, RolloutConfig


def start_engine(path: str, config: RolloutConfig, model: ModelConfig, dtype: str, transfer: str, executor: str) -> Any:
    """vLLM's `AsyncLLM` with the recipe's settings."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments: dict[str, Any] = dict(
        model=path,
        dtype=dtype,
        max_model_len=model.max_length,
        trust_remote_code=model.trust_remote_code,
        enforce_eager=config.enforce_eager,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max(config.max_num_batched_tokens, model.max_length),
        tensor_parallel_size=config.tensor_parallel,
        distributed_executor_backend=executor,
        seed=0,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        disable_log_stats=True,
        worker_extension_cls="actors.weight_engines.WorkerExtension",
        weight_transfer_config=WeightTransferConfig(backend=transfer),
    )
    if config.gpus:
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
        arguments["enable_sleep_mode"] = config.shares_a_gpu
    else:
        arguments["kv_cache_memory_bytes"] = int(config.kv_cache_gb * 2**30)
        # A prompt cut in two rolls back its request's random generator, which kills the engine on CPU ("CPU Generator
        # does not use offset", vLLM 0.32): prompts are prefilled whole.
        arguments["enable_chunked_prefill"] = False
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def sampling_params(request: GenerationRequest, max_tokens: int) -> Any:
    """vLLM's parameters of a request; nothing is filtered that the request does not name."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=request.n,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=-1,
        max_tokens=max_tokens,
        seed=request.seed,
        stop=list(request.stop),
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params() -> Any:
    """vLLM's parameters for the log-probabilities of a prompt; it cannot generate nothing."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=1.0,
        prompt_logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion(output: Any) -> Completion:
    """One of vLLM's outputs, with a weight version for each token."""
    token_ids = tuple(output.token_ids)
    versions: list[int] = []
    for span in output.weight_versions or ():
        versions += [int(span.version)] * (span.end - span.start)
    return Completion(
        token_ids=token_ids,
        log_probs=tuple(output.logprobs.logprobs),
        weight_versions=tuple(versions),
        text=output.text,
        finish_reason=output.finish_reason or "",
    )
