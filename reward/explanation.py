"""How much an explanation says the same as known good ones: mean cosine similarity of sentence embeddings.

S_ex(e) = mean over e' in E_w of cosine(embedding(e), embedding(e')); the paper's encoder is all-roberta-large-v1
(LeDex, section 3.3). The encoder is loaded from a path, in the process that makes an `ExplanationScorer`; nothing here
is imported by sandbox nodes, which have no torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class ExplanationScorer:
    """Encodes explanations in batches and keeps the references' embeddings.

    `path` is a sentence-transformers directory, `kept` the number of reference embeddings held (4 KB each at 1,024
    dimensions). Raises OSError where the path holds no encoder.
    """

    def __init__(
        self, path: str | Path, *, device: str | None = None, batch_size: int = 32, kept: int = 20_000
    ) -> None:
        from sentence_transformers import SentenceTransformer

        self._encoder: Any = SentenceTransformer(str(path), device=device, local_files_only=True)
        self._batch_size = batch_size
        self._limit = kept
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()

    def similarity(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[float | None]:
        """S_ex of each (explanation, reference explanations), in [-1, 1]; None without a reference.

        A missing explanation (empty or white space) has similarity 0. The order of references does not matter.
        """
        references = {r for text, known in pairs for r in known if r.strip() and text.strip()}
        vectors = self._references(sorted(references))
        texts = sorted({text for text, known in pairs if text.strip() and any(r.strip() for r in known)})
        ours = dict(zip(texts, self._encode(texts), strict=True))
        return [_mean_similarity(text, known, ours, vectors) for text, known in pairs]

    def _references(self, texts: Sequence[str]) -> dict[str, Vector]:
        found: dict[str, Vector] = {}
        missing: list[str] = []
        for text in texts:
            vector = self._kept.get(_digest(text))
            if vector is None:
                missing.append(text)
            else:
                self._kept.move_to_end(_digest(text))
                found[text] = vector
        for text, vector in zip(missing, self._encode(missing), strict=True):
            found[text] = self._kept[_digest(text)] = vector
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return found

    def _encode(self, texts: Sequence[str]) -> list[Vector]:
        """Unit vectors, one a text."""
        if not texts:
            return []
        vectors = self._encoder.encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return list(np.asarray(vectors, dtype=np.float32))


def _mean_similarity(
    text: str, known: Sequence[str], ours: dict[str, Vector], references: dict[str, Vector]
) -> float | None:
    known = sorted(r for r in known if r.strip())
    if not known:
        return None
    if not text.strip():
        return 0.0
    cosines = [float(np.dot(ours[text], references[r])) for r in known]
    return max(-1.0, min(1.0, sum(cosines) / len(cosines)))


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
