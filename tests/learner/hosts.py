"""Processes in which rank after rank is built, so that many configurations share one import of torch."""

from __future__ import annotations

from typing import Any


class RankHost:
    """A process that builds one real LearnerRank after another and records the gradients before each step."""

    def endpoint(self) -> tuple[str, int]:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]

    def run(self, spec: dict[str, Any], address: str, port: int, calls: list[tuple[Any, ...]]) -> dict[str, Any]:
        """Results of the calls, full gradients of each step, tokens of each of the policy's passes, weights before."""
        import deepspeed
        import torch
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

        from actors.learner_rank import LearnerRank, LearnerSpec

        torch.set_num_threads(1)
        rank = LearnerRank(LearnerSpec(**spec))
        rank.build(address, port)
        gradients: list[dict[str, Any]] = []

        def record(model: Any) -> None:
            step = model.engine.step

            def recorded() -> None:
                found = {}
                for name, p in model.module.named_parameters():
                    if p.requires_grad:
                        gradient = safe_get_full_grad(p)
                        found[name] = None if gradient is None else gradient.float().clone().numpy()
                gradients.append(found)
                step()

            model.engine.step = recorded

        for _, model in rank._models():
            record(model)
        laid: list[int] = []
        rank.policy.module.register_forward_pre_hook(lambda _, inputs: laid.append(inputs[0].token_ids_1T.shape[1]))
        weights = {}
        for name, p in rank.policy.module.named_parameters():
            if p.requires_grad:
                weights[name] = safe_get_full_fp32_param(p).clone().numpy()
        results = [getattr(rank, method)(*arguments) for method, *arguments in calls]
        for _, model in rank._models():
            model.engine.destroy()
        del rank
        assert deepspeed.comm.is_initialized()
        return {"results": results, "gradients": gradients, "laid": laid, "weights": weights}
