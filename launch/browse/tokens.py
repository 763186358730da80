"""An episode's answer token by token: its text, log-probability and reward, with the shade that each is shown in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.shown import visible

TOKENIZER = "ppo/tokenizer.json"
MOST_TOKENS = 8192
FULL_REWARD = 5.0  # R(r) and R(e) lie in [-5, 5] (method.md, section 2)
SURE, UNSURE = 0.0, -6.0  # log-probabilities at the two ends of the scale
SHADES = 5


@dataclass(frozen=True)
class Token:
    """One generated token, ready to be shown; `reward_shade` is -5..5 and `prob_shade` 0..5."""

    text: str
    id: int
    log_prob: float
    reward: float
    version: int
    reward_shade: int
    prob_shade: int
    ends_explanation: bool
    before: str = ""  # what was said to the policy just before it, from the second turn on


def load_tokenizer(root: Path) -> Any:
    """The tokenizer that the run's episodes were written with, or None where there is none to read."""
    older = sorted((root / "sft" / "model").glob("**/tokenizer.json"))  # of releases before; numbered, at a URL
    path = next((path for path in (root / TOKENIZER, *older) if path.exists()), None)
    if path is None:
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def prompt_text(episode: Mapping[str, Any], tokenizer: Any) -> str:
    """What the policy was shown before its first token, special tokens included."""
    return _decoded(episode["token_ids"][: _first(episode)], tokenizer)


def answer_tokens(episode: Mapping[str, Any], tokenizer: Any) -> list[Token]:
    """The generated tokens of an episode's row, at most MOST_TOKENS of them."""
    places = [i for i, own in enumerate(episode["loss_mask"]) if own][:MOST_TOKENS]
    texts = _texts([episode["token_ids"][i] for i in places], tokenizer)
    return [
        Token(
            text=visible(text),
            id=episode["token_ids"][i],
            log_prob=episode["behaviour_log_probs"][i],
            reward=episode["rewards"][i],
            version=episode["weight_versions"][i],
            reward_shade=reward_shade(episode["rewards"][i]),
            prob_shade=prob_shade(episode["behaviour_log_probs"][i]),
            ends_explanation=i == episode["explanation_end"],
            before=visible(_decoded(episode["token_ids"][last + 1 : i], tokenizer)),
        )
        for last, i, text in zip([_first(episode) - 1, *places], places, texts, strict=False)
    ]


def _first(episode: Mapping[str, Any]) -> int:
    """The place of the first generated token; the length where there is none."""
    return next((i for i, own in enumerate(episode["loss_mask"]) if own), len(episode["loss_mask"]))


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False)) if tokenizer is not None and len(ids) else ""


def reward_shade(reward: float) -> int:
    """-5 (worst) to 5 (best); 0 for no reward alone."""
    if reward == 0:
        return 0
    size = max(1, min(SHADES, round(abs(reward) / FULL_REWARD * SHADES)))
    return size if reward > 0 else -size


def prob_shade(log_prob: float) -> int:
    """0 (certain) to 5 (e^-6 and less likely)."""
    share = (log_prob - SURE) / (UNSURE - SURE)
    return max(0, min(SHADES, round(share * SHADES)))


def _texts(ids: list[int], tokenizer: Any) -> list[str]:
    """The text that each token adds; a character split over several tokens stands with its last one."""
    if tokenizer is None:
        return [f"#{id} " for id in ids]
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, id) or "" for id in ids]
