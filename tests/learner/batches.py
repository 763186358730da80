"""Random examples and episodes, the same for a seed."""

from __future__ import annotations

import numpy as np

from ledex_ray.episodes import Episode, SupervisedExample


def examples(n: int, seed: int = 0, words: int = 96, longest: int = 40) -> list[SupervisedExample]:
    """Uneven lengths, answers in one or two stretches; each third example has its predecessor's prompt."""
    random = np.random.default_rng(seed)
    made: list[SupervisedExample] = []
    for index in range(n):
        length = int(random.integers(6, longest))
        mask = np.zeros(length, dtype=bool)
        mask[int(random.integers(1, length - 1)) :] = True
        if length > 12:
            mask[2:4] = True
        ids = random.integers(1, words, length).astype(np.int32)
        if index % 3 == 2 and (prompt := int(np.argmax(made[-1].loss_mask))) < length - 1:
            ids[:prompt], mask = made[-1].token_ids[:prompt], np.arange(length) >= prompt
        made.append(SupervisedExample(f"example-{index}", ids, mask))
    return made


def episodes(n: int, seed: int = 0, words: int = 96, longest: int = 40) -> list[Episode]:
    """Groups of four answers to one prompt, with rewards at the explanation's end and at the last token.

    Temperatures are uneven; one episode is unscored.
    """
    random = np.random.default_rng(seed)
    made = []
    for index in range(n):
        if index % 4 == 0:
            prompt = random.integers(1, words, int(random.integers(2, longest // 2))).astype(np.int32)
        start = len(prompt)
        length = start + int(random.integers(4, longest // 2))
        mask = np.arange(length) >= start
        rewards = np.zeros(length, dtype=np.float32)
        end = start + 1
        rewards[end], rewards[-1] = random.normal(), 2 * random.normal()
        made.append(
            Episode(
                id=f"episode-{index}",
                group_id=f"group-{index // 4}",
                problem_id="p",
                instruction="explain",
                token_ids=np.concatenate([prompt, random.integers(1, words, length - start).astype(np.int32)]),
                loss_mask=mask,
                behaviour_log_probs=np.where(mask, -4.5 + random.normal(size=length), 0).astype(np.float32),
                weight_versions=np.where(mask, 0, -1).astype(np.int32),
                rewards=rewards,
                explanation_end=end,
                temperature=(1.0, 0.8)[index % 2],
                scored=index != 2,
            )
        )
    return made
