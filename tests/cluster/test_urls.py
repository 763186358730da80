"""URLs as places for runs: what is taken, what is refused, and that no refusal repeats a credential."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.places import RemotePath, place
from launch.rundir import RunDirectory
from launch.submit import job_environment
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import recipe_from_tree


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:wJalr/K7MDENG@bucket/runs",
        "s3://bucket/runs?endpoint_override=AKIAEXAMPLE:wJalr@127.0.0.1",
        "s3://AKIAEXAMPLE:wJalr%40bucket/runs",
        "gs://AKIAEXAMPLE@bucket/runs",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDEX_RUNS", url)
    for refused in (lambda: RunDirectory.open(Recipe()), lambda: job_environment(url, ())):
        with pytest.raises(BadInput, match="credentials") as caught:
            refused()
        assert "AKIAEXAMPLE" not in str(caught.value) and "wJalr" not in str(caught.value)
    with pytest.raises(BadInput, match=r"'model\.name'") as caught:
        recipe_from_tree({"model": {"name": url}})
    assert "AKIAEXAMPLE" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://bucket/runs", "expected s3://BUCKET"),
        ("s3:///runs", "names no bucket"),
        ("s3://[bucket/runs", "is no URL"),
        ("file://runs/mine", "is no local folder"),
        ("s3://bucket/runs?secret_key=wJalr", "options that are not taken, got .'secret_key'."),
        ("s3://bucket/runs?allow_bucket_deletion=true", "options that are not taken"),
    ],
)
def test_other_urls_are_refused_with_what_is_taken(url: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        place(url)
    assert "wJalr" not in str(caught.value)


def test_a_url_is_what_it_was_after_a_way_through_text() -> None:
    for url in ("s3://b/runs?region=eu-west-1", "gs://b/a%20b", "file:///mnt/runs/"):
        parsed = RemotePath.parse(url)
        assert RemotePath.parse(str(parsed)) == parsed and str(parsed / "x").startswith(str(parsed).partition("?")[0])
    assert place("/mnt/runs") == Path("/mnt/runs")
