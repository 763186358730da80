"""`ledex inspect`: what is there is found, and what a model wrote is only ever text."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.browse.answers import Reader
from launch.browse.app import make_app
from launch.browse.index import Filter, RunIndex
from launch.parts import Parts
from launch.rundir import find_run
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Sample
from ledex_ray.prompts import PROMPT_VERSION
from ledex_ray.readers import CanonicalRun, load_problems
from ledex_ray.readers.evalplus import PENDING
from ledex_ray.recipes import dump_recipe, load_recipe, recipe_from_tree
from ledex_ray.records import Attempt, Provenance, Status, TestResult, TestStatus, Verdict
from tests.evaluation.browser import Page
from tests.evaluation.sample_run import HOSTILE, RIGHT, WRONG, byte_tokenizer, episode, sample
from tests.evaluation.serving import served

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a run for real, on loopback; gives back the address."""
    with contextlib.ExitStack() as stack:

        def start(root: Path, follow: bool = False) -> str:
            return stack.enter_context(served(make_app(root, load_recipe(root / "recipe.yaml"), follow)))

        yield start


def get(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def listed(html: str) -> list[str]:
    """The answers that a list shows, as paths."""
    return [
        a["href"] or "" for tag, a in Tags(html).tags if tag == "a" and (a.get("href") or "").startswith("/answer/")
    ]


# The index


def test_every_kind_of_answer_is_found_with_its_reward(run_root: Path) -> None:
    index = RunIndex(run_root)
    index.refresh()
    rows = index.table.to_pylist()
    stages = [row["stage"] for row in rows]
    assert [stages.count(s) for s in ("solve", "refine", "ppo", "evaluation")] == [3, 3, 4, 3]
    rewards = [row["reward"] for row in rows if row["stage"] == "ppo"]
    assert rewards == pytest.approx([3.5, -2.0, -4.5, 4.5])
    assert {row["iteration"] for row in rows if row["stage"] == "ppo"} == {1, 2}
    assert all(row["reward"] is None for row in rows if row["stage"] != "ppo")


def test_bugs_of_another_run_have_no_page_in_this_one(tmp_path: Path) -> None:
    for bug_set, parents in ((None, ["", "jsonl/a@m/initial0/null//0"]), ("other/bugs.parquet", ["", ""])):
        root = tmp_path / str(bug_set is None)
        (root / "evaluation/heldout/parts").mkdir(parents=True)
        (root / "recipe.yaml").write_text(dump_recipe(recipe_from_tree({"evaluation": {"bug_set": bug_set}})))
        first = dataclasses.replace(sample(0, "initial", WRONG, WRONG), id="jsonl/a@m/initial0/null//0")
        fixed = sample(1, "explain", WRONG, WRONG, first.id, bugs="fixed")
        Parts(root / "evaluation/heldout/parts", Sample).append([first, fixed])
        index = RunIndex(root)
        index.refresh()
        assert [row["parent"] for row in index.table.to_pylist()] == parents


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter(stage="ppo", iteration="2"), 2),
        (Filter(verdict="PASSED"), 5),
        (Filter(stage="ppo", least=0), 2),
        (Filter(most=-3), 1),
        (Filter(problem="JSONL/A"), 3),
        (Filter(problem=".*"), 0),  # a part of an id, not a pattern
        (Filter(mode="explain", stage="refine"), 3),
        (Filter(by="nobody"), 0),
    ],
)
def test_a_filter_leaves_what_it_names(run_root: Path, wanted: Filter, count: int) -> None:
    index = RunIndex(run_root)
    index.refresh()
    assert wanted.rows(index.table).num_rows == count


def test_best_and_worst_rewards_come_first(run_root: Path) -> None:
    index = RunIndex(run_root)
    index.refresh()
    best = Filter(order="reward, highest first").rows(index.table)["reward"].to_pylist()
    worst = Filter(order="reward, lowest first").rows(index.table)["reward"].to_pylist()
    assert best == sorted(best, reverse=True) and worst == best[::-1] and len(best) == 4


def test_an_episode_without_a_trustworthy_reward_has_none(run_root: Path) -> None:
    unscored = dataclasses.replace(episode(byte_tokenizer(), 2, 0, RIGHT, 1.0), scored=False)
    EpisodeStore(run_root / "ppo/episodes").write(2, [unscored])
    index = RunIndex(run_root)
    index.refresh()
    assert [r["reward"] for r in Filter(iteration="3").rows(index.table).to_pylist()] == [None]


def test_new_parts_are_seen_and_broken_ones_are_named(run_root: Path) -> None:
    index = RunIndex(run_root)
    index.refresh()
    before = index.state
    EpisodeStore(run_root / "ppo/episodes").write(2, [episode(byte_tokenizer(), 2, 0, RIGHT, 1.0)])
    (run_root / "ppo/episodes/000009.parquet").write_bytes(b"not parquet")
    index.refresh()
    assert index.state != before and Filter(stage="ppo").rows(index.table).num_rows == 5
    assert list(index.unreadable) == ["ppo/episodes/000009.parquet"]


def test_half_written_parts_are_not_read(run_root: Path) -> None:
    (run_root / "ppo/episodes/.000002.parquet.7.tmp").write_bytes(b"half")
    index = RunIndex(run_root)
    index.refresh()
    assert not index.unreadable


# The pages


def test_each_answer_has_a_page_that_says_what_was_asked_and_what_came(run_root: Path, serve: Serve) -> None:
    address = serve(run_root)
    paths = listed(get(address + "/")[1])
    assert len(paths) == 13
    for path in paths:
        status, html = get(address + path)
        assert status == 200 and len(html) < 1_500_000
    fix = Tags(get(f"{address}/answer/0/synthesis/refine/part-000000.parquet")[1]).text
    for part in ("It subtracts.", "returned -1, but 5 was expected", "return a - b", "return a + b", "add(2, 3)"):
        assert part in fix
    tokens = Tags(get(f"{address}/answer/0/ppo/episodes/000000.parquet")[1])
    shades = [a["class"] for tag, a in tokens.tags if tag == "span" and (a.get("title") or "").startswith("log-prob")]
    assert any("r-1" in (s or "") and "end" in (s or "") for s in shades) and any("r4" in (s or "") for s in shades)
    assert "Fix it." in tokens.text and "naïve" in tokens.text and "add#0" in tokens.text
    wrong = Tags(get(f"{address}/answer/1/ppo/episodes/000000.parquet")[1]).text
    assert "add(1, 2)" in wrong and "add(1, 2) returned <script>" in wrong and "1 tests more" in wrong


def test_a_prompt_and_calls_are_shown_with_the_values_they_had_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    spec = f"evalplus:{tmp_path / 'plus.jsonl'}"
    code = "def f(n):\n    return 'x' * n\n"
    row = {"task_id": "Mbpp/1", "prompt": "Repeat.", "entry_point": "f", "canonical_solution": code}
    inputs = {"base_input": [[2], [9_000_000]], "plus_input": [[3]]}
    (tmp_path / "plus.jsonl").write_text(json.dumps(row | inputs))
    root = tmp_path / "run"
    recipe = recipe_from_tree({"run": "run", "problems": {"train": spec}})
    passed = tuple(TestResult(n, n == 0, TestStatus.PASSED) for n in range(2))
    made = Provenance("model", "tiny", PROMPT_VERSION, 1.0, 0, 10, 20)
    right = Attempt("Mbpp/1#0", "Mbpp/1", 0, code, code, Verdict(Status.PASSED, passed), made, "0")
    Parts(root / "synthesis/solve", Attempt).append([right])

    def seen() -> tuple[str, list[str]]:
        index = RunIndex(root)
        index.refresh()
        answer = Reader(index, recipe).answer("synthesis/solve/part-000000.parquet", 0)
        assert answer is not None
        return answer.raw["prompt"], [test.call for test in answer.tests]

    assert seen() == ("", ["", ""])
    values = CanonicalRun(("'xx'", None, "'xxx'"))  # the second is too large: its test is left out
    load_problems(spec, lambda problem, arguments: values)
    prompt, calls = seen()
    assert "f(2) == 'xx'" in prompt and PENDING not in prompt
    assert "f(2)" in calls[0] and "f(3)" in calls[1]


def test_a_filter_in_the_address_is_kept_from_answer_to_answer(run_root: Path, serve: Serve) -> None:
    address = serve(run_root)
    asked = urlencode({"stage": "ppo", "order": "reward, highest first"})
    first, second, *_ = listed(get(f"{address}/?{asked}")[1])
    page = Tags(get(address + first)[1])
    following = [a["href"] for tag, a in page.tags if tag == "a" and a.get("rel") == "next"]
    assert following == [second] and "ppo/episodes/000001" in first


@pytest.mark.parametrize("query", ["page=0", "page=-1", "page=99999999999999999999", "page=x", "least=nan", "most=inf"])
def test_nonsense_in_the_address_is_no_error(run_root: Path, serve: Serve, query: str) -> None:
    assert get(f"{serve(run_root)}/?{query}&stage=solve")[0] == 200


def test_nothing_but_this_runs_answers_is_served(run_root: Path, serve: Serve) -> None:
    address = serve(run_root)
    for path in (
        "/answer/0/recipe.yaml",
        "/answer/0/../../../etc/passwd",
        "/answer/0/..%2f..%2f..%2fetc%2fpasswd",
        "/answer/0//etc/passwd",
        "/answer/99/ppo/episodes/000000.parquet",
        "/raw/secret/0/ppo/episodes/000000.parquet",
        "/raw/text/0/recipe.yaml",
        "/ppo/tokenizer.json",
    ):
        assert get(address + path)[0] == 404, path


def test_another_name_for_this_machine_is_refused(run_root: Path, serve: Serve) -> None:
    address = serve(run_root)
    assert get(address + "/", Host="rebound.example")[0] == 400
    assert get(address + "/", Host="localhost")[0] == 200


def test_what_a_model_wrote_is_text_in_every_page(run_root: Path, serve: Serve) -> None:
    address = serve(run_root)
    for path in ["/", *listed(get(address + "/")[1])]:
        html = get(address + path)[1]
        parsed = Tags(html)
        assert not {tag for tag, _ in parsed.tags} & {"img", "iframe", "object", "style", "svg"}, path
        assert [a for tag, a in parsed.tags if tag == "script"] == [{"src": "/browse.js", "defer": None}]
        names = {name for _, attributes in parsed.tags for name in attributes}
        assert not {n for n in names if n.startswith("on")} and "style" not in names
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)
        assert "{{" not in html or "{{ 7 * 7 }}" in html


def test_the_whole_of_a_long_text_is_served_as_plain_text(run_root: Path, serve: Serve) -> None:
    address = serve(run_root)
    with urllib.request.urlopen(f"{address}/raw/text/2/synthesis/solve/part-000000.parquet", timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.read().decode() == HOSTILE


def test_fifty_thousand_answers_are_paged(run_root: Path, serve: Serve) -> None:
    part = run_root / "synthesis/refine/part-000000.parquet"
    table = pq.read_table(part)
    small = table.slice(0, 2)  # the third is hostile and large
    for number in range(1, 11):
        many = pa.concat_tables([small] * 2500)
        ids = pa.array([f"add#0/explain{number}/{i}" for i in range(many.num_rows)])
        many = many.set_column(many.schema.get_field_index("id"), many.schema.field("id"), ids)
        pq.write_table(many, part.with_name(f"part-{number:06d}.parquet"), row_group_size=1000)
    address = serve(run_root)
    html = get(f"{address}/?stage=refine&verdict=PASSED&page=500")[1]
    assert "25,001 of 50,013 answers" in html and "page 500 of 501" in html
    assert len(listed(html)) == 50 and len(html) < 60_000
    status, last = get(f"{address}/answer/4999/synthesis/refine/part-000010.parquet?stage=refine")
    assert status == 200 and "add#0/explain10/4999" in last


# A real browser


def test_a_browser_shows_hostile_answers_without_a_word_in_its_console(
    run_root: Path, serve: Serve, page: Page
) -> None:
    address = serve(run_root)
    page.messages.clear()
    page.size(1280, 900)
    for path in ["/", *listed(get(address + "/")[1])]:
        page.open(address + path)
        assert page.value("window.pwned === undefined && document.images.length === 0"), path
        width = page.value("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width[0] <= width[1], f"{path}: the page is wider than its window"
    assert page.heard() == []


def test_a_browser_on_a_phone_and_in_the_dark(run_root: Path, serve: Serve, page: Page) -> None:
    address = serve(run_root)
    page.messages.clear()
    page.size(390, 844, phone=True)
    page.dark()
    for path in ("/", "/answer/0/ppo/episodes/000000.parquet", "/answer/2/synthesis/refine/part-000000.parquet"):
        page.open(address + path)
        assert page.value("document.documentElement.scrollWidth <= 390"), path
        ink, paper = page.value("['color', 'backgroundColor'].map(n => getComputedStyle(document.documentElement)[n])")
        assert ink != paper
    assert page.value("matchMedia('(prefers-color-scheme: dark)').matches")
    page.dark(False)
    page.size(1280, 900)
    assert page.heard() == []


def test_a_browser_colours_tokens_by_reward_or_by_probability(run_root: Path, serve: Serve, page: Page) -> None:
    page.messages.clear()
    page.open(f"{serve(run_root)}/answer/0/ppo/episodes/000000.parquet")
    colour = "getComputedStyle(document.querySelector('pre .{}')).backgroundColor"
    clear = "rgba(0, 0, 0, 0)"
    assert page.value(colour.format("r4")) != clear and page.value(colour.format("r0.p5")) == clear
    page.value("document.getElementById('by-prob').click()")
    assert page.value(colour.format("r0.p5")) != clear and page.value(colour.format("r0.p0")) == clear
    assert page.heard() == []


def test_a_browser_follows_a_run_that_goes_on(run_root: Path, serve: Serve, page: Page) -> None:
    page.messages.clear()
    page.open(serve(run_root, follow=True) + "/?stage=ppo")
    assert page.value("document.querySelectorAll('.list tbody tr').length") == 4
    EpisodeStore(run_root / "ppo/episodes").write(2, [episode(byte_tokenizer(), 2, 0, RIGHT, 1.0)])
    page.until("document.querySelectorAll('.list tbody tr').length === 5")
    page.call("Page.navigate", url="about:blank")  # the page would go on asking a server that ends
    assert page.heard() == []


def test_a_browser_turns_pages_by_key_and_filters_by_choice(run_root: Path, serve: Serve, page: Page) -> None:
    page.messages.clear()
    address = serve(run_root)
    page.open(address + listed(get(address + "/?stage=ppo")[1])[0])
    page.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}))")
    page.until("location.pathname === '/answer/1/ppo/episodes/000000.parquet'")
    page.open(address + "/")
    choose = "const s = document.querySelector('select[name=verdict]'); s.value = 'PASSED';"
    page.value(f"{choose} s.dispatchEvent(new Event('change')); 0")
    page.until("document.querySelectorAll('.list tbody tr').length === 5")
    assert page.heard() == []


# The command


def test_a_run_is_found_by_name_and_by_path(runs_dir: Path, run_root: Path) -> None:
    run_root.rename(runs_dir / "mine")
    assert find_run("mine")[0] == find_run(str(runs_dir / "mine"))[0] == runs_dir / "mine"
    with pytest.raises(BadInput, match="no such run, got 'yours'; expected a run directory, or one of mine"):
        find_run("yours")


def test_nothing_is_downloaded_for_a_look(run_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the hub's library is imported, in a process of its own: it is read then."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    code = f"""
import uvicorn

def serve(*_, **__):
    from huggingface_hub import constants
    print("offline", constants.HF_HUB_OFFLINE)

uvicorn.Server.run = serve
from launch.inspect import inspect
inspect({str(run_root)!r}, port=0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "offline True" in done.stdout, done.stderr
