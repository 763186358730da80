"""What a run takes from outside, pinned: models and data sets of the hub by commit, problem files by their hash.

The first use is written down, every later one asks for the same. A branch or a tag may point elsewhere tomorrow, and a
file may be edited; the run goes on with what it began with, or says why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ledex_ray.errors import BadInput


class Pins:
    """The commits (of files: hashes) of one run by the name that its recipe has for them.

    `keep` is told all of them at each new one.
    """

    def __init__(
        self, known: Mapping[str, str] | None = None, keep: Callable[[Mapping[str, str]], None] | None = None
    ) -> None:
        self._known, self._keep = dict(known or {}), keep

    def commit(self, name: str) -> str | None:
        """The commit that the run began with; None where it has not met this name yet."""
        return self._known.get(name)

    def pin(self, name: str, commit: str) -> None:
        """Writes a new name down. BadInput where the run began with another commit of it, or other content."""
        known = self._known.get(name)
        if known == commit:
            return
        if known is not None:
            raise BadInput(
                name,
                f"the run began with {known} of it, and this would be another one",
                given=commit,
                expected="what the run began with, another run=NAME, or --fresh",
            )
        self._known[name] = commit
        if self._keep is not None:
            self._keep(self._known)


def split_revision(name: str) -> tuple[str, str | None]:
    """(OWNER/NAME, REVISION) of a hub id; None for its default branch."""
    repo, at, revision = name.partition("@")
    return repo, revision if at else None
