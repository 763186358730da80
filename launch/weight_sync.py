"""Weights from the learner to every rollout engine, versioned and checked before they serve.

Version v is the policy after v updates. After a transfer the engines' log-probabilities of a fixed probe batch are held
against the learner's; an engine over the tolerance is refitted, then replaced (DESIGN, what must never happen, 5).
"""

from __future__ import annotations
