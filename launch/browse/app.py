"""The pages of `ledex inspect`: a filtered list of answers and one page an answer, drawn on the server.

Text that a model wrote is data throughout: escaped by Jinja, unprintable characters made visible, and a content
security policy under which nothing but this package's own stylesheet and script could act. Only this machine is
answered, under its own names (a page elsewhere cannot reach it by rebinding a name).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launch.browse.answers import Reader
from launch.browse.index import FACETS, ORDERS, Filter, RunIndex, neighbours, pages
from launch.shown import shown
from ledex_ray.config import Recipe

PAGE = 50
TEMPLATES = Path(__file__).parent.parent / "templates"
HOSTS = ("127.0.0.1", "localhost")
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
STATIC = {"browse.css": "text/css", "browse.js": "text/javascript"}


def make_app(root: Path, recipe: Recipe, follow: bool = False) -> Starlette:
    """The application over one run directory; with `follow` its list reloads when the run has written more."""
    pages_ = _Pages(root, recipe, follow)
    routes = [
        Route("/", pages_.listing),
        Route("/answer/{row:int}/{file:path}", pages_.answer),
        Route("/raw/{field}/{row:int}/{file:path}", pages_.raw),
        Route("/state", pages_.state),
        *(Route(f"/{name}", _static(name, kind)) for name, kind in STATIC.items()),
    ]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS)), Middleware(_Headers)]
    return Starlette(routes=routes, middleware=guards)


class _Headers:
    """Adds the protective headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


class _Pages:
    """The handlers, over one index. They are plain functions: Starlette runs them in threads."""

    def __init__(self, root: Path, recipe: Recipe, follow: bool) -> None:
        self.index = RunIndex(root)
        self.index.refresh()
        self.reader = Reader(self.index, recipe)
        self.name, self.follow = root.name, follow
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self.templates.globals |= {"place": _place, "line": _line}

    def listing(self, request: Request) -> Response:
        """The list of answers that a filter leaves, a page of it."""
        self.index.refresh()
        wanted = read_filter(request.query_params)
        rows = wanted.rows(self.index.table)
        last = pages(rows.num_rows, PAGE)
        page = min(max(_whole(request.query_params.get("page"), 1), 1), last)
        asked = _query(wanted)
        return self._page(
            "browse_list.html.j2",
            rows=rows.slice((page - 1) * PAGE, PAGE).to_pylist(),
            count=rows.num_rows,
            total=self.index.table.num_rows,
            page=page,
            last=last,
            wanted=wanted,
            query=urlencode(asked),
            facets=self.index.facets(),
            facet_names=FACETS,
            orders=list(ORDERS),
            unreadable=self.index.unreadable,
        )

    def answer(self, request: Request) -> Response:
        """The page of one answer, with its neighbours under the same filter."""
        file, row = request.path_params["file"], request.path_params["row"]
        found = self.reader.answer(file, row)
        if found is None:
            return PlainTextResponse("no such answer in this run", status_code=404)
        wanted = read_filter(request.query_params)
        before, after, position = neighbours(wanted.rows(self.index.table), file, row)
        light = found.light
        children, n_children = self.index.children(light["id"])
        return self._page(
            "browse_answer.html.j2",
            answer=found,
            before=before,
            after=after,
            page=1 + max(position, 0) // PAGE,
            query=urlencode(_query(wanted)),
            parent=self.index.by_id(light["parent"]) if light["parent"] else None,
            children=children,
            n_children=n_children,
        )

    def raw(self, request: Request) -> Response:
        """One text of an answer, whole, as plain text."""
        found = self.reader.answer(request.path_params["file"], request.path_params["row"])
        field = request.path_params["field"]
        if found is None or field not in found.raw:
            return PlainTextResponse("no such text in this run", status_code=404)
        return PlainTextResponse(found.raw[field].encode("utf-8", "replace"))

    def state(self, request: Request) -> Response:
        """A word that changes when the run has written more."""
        self.index.refresh()
        return PlainTextResponse(self.index.state)

    def _page(self, template: str, **context: Any) -> Response:
        shared = {"name": self.name, "follow": self.follow, "state": self.index.state}
        return HTMLResponse(self.templates.get_template(template).render(shared | context))


def read_filter(parameters: Mapping[str, str]) -> Filter:
    """The filter that a query string asks for; what is no number or no known order asks for nothing."""
    texts = {name: parameters.get(name, "").strip() for name in (*FACETS, "problem")}
    order = parameters.get("order", "")
    return Filter(
        **texts,
        least=_number(parameters.get("least")),
        most=_number(parameters.get("most")),
        order=order if order in ORDERS else "written",
    )


def _query(wanted: Filter) -> dict[str, str]:
    """The query string of a filter, what it does not ask for left out."""
    asked = {name: str(value) for name, value in vars(wanted).items() if value not in ("", None)}
    return {name: value for name, value in asked.items() if (name, value) != ("order", "written")}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default


def _place(light: Mapping[str, Any]) -> str:
    """The path of an answer below /answer/ and /raw/FIELD/."""
    return f"{light['row']}/{quote(light['file'])}"


def _line(text: str) -> str:
    """An id or another short text of a run's files, in one safe line."""
    return shown(text, 300, 1).text


def _static(name: str, kind: str) -> Any:
    def serve(request: Request) -> Response:
        return Response((TEMPLATES / name).read_bytes(), media_type=kind)

    return serve
