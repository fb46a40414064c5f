"""Uses the site over HTTP as a browser without scripts would: for the demo and for tests."""

from __future__ import annotations

import html
import re
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

_FORM = re.compile(r'<form id="upload"[^>]*action="([^"]+)"[^>]*>(.*?)</form>', re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
_STATE = re.compile(r'<span class="state (\w+)">')
_PROBLEM = re.compile(r'id="problem">(.*?)</p>', re.DOTALL)
_PARTS = re.compile(r"(\d+) of (\d+) parts done")


class VisitError(RuntimeError):
    """The site did not do what a visitor expects; the message says at which step."""


@dataclass(frozen=True)
class Seen:
    """What a dataset's page shows. problem: the message to its owner, or ""."""

    state: str
    problem: str
    parts_done: int
    parts: int


class Visitor:
    """A person's session at the site. Close it, or use it as a context manager.

    transport: what carries requests; None for the network.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.client = httpx.Client(base_url=url, timeout=120, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def sign_in(self, name: str, password: str) -> None:
        self.client.get("/sign-in/").raise_for_status()
        answer = self.post("/sign-in/", {"username": name, "password": password})
        if answer.status_code != 302:
            raise VisitError(f"signing in as {name} answered {answer.status_code}, not a redirect.")

    def post(self, path: str, data: dict[str, str] | None = None) -> httpx.Response:
        """Submit a form of the site, with its CSRF token."""
        fields = {"csrfmiddlewaretoken": self.client.cookies.get("csrftoken") or "", **(data or {})}
        return self.client.post(path, data=fields, headers={"Referer": str(self.client.base_url)})

    def new_dataset(self) -> str:
        """Make a dataset; returns its page's path."""
        self.client.get("/datasets/").raise_for_status()
        answer = self.post("/datasets/new/")
        if answer.status_code != 302:
            raise VisitError(f"a new dataset answered {answer.status_code}, not a redirect.")
        return answer.headers["location"]

    def upload_form(self, page: str) -> tuple[str, dict[str, str]]:
        """The upload form's address and hidden fields."""
        found = _FORM.search(self.client.get(page).text)
        if found is None:
            raise VisitError(f"{page} shows no upload form.")
        fields = {name: html.unescape(value) for name, value in _HIDDEN.findall(found[2])}
        return html.unescape(found[1]), fields

    def upload(self, filename: str, content: bytes) -> str:
        """Make a dataset and upload its file; returns its page's path."""
        page = self.new_dataset()
        url, fields = self.upload_form(page)
        answer = self.client.post(url, data=fields, files={"file": (filename, content, "text/csv")})
        if answer.status_code != 303:
            raise VisitError(f"storage answered {answer.status_code}: {answer.text[:300]}")
        back = urlsplit(answer.headers["location"])
        self.client.get(f"{back.path}?{back.query}", follow_redirects=True).raise_for_status()
        return page

    def look(self, page: str) -> Seen:
        text = self.client.get(page).raise_for_status().text
        state = _STATE.search(text)
        problem = _PROBLEM.search(text)
        parts = _PARTS.search(text)
        done, total = (int(parts[1]), int(parts[2])) if parts else (0, 0)
        return Seen(state[1] if state else "uploading", html.unescape(problem[1]) if problem else "", done, total)

    def await_end(self, page: str, seconds: float = 120) -> Seen:
        """Look until the work has ended. Raises VisitError when the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self.look(page)
            if seen.state in ("ready", "failed"):
                return seen
            time.sleep(0.25)
        raise VisitError(f"{page} is still {seen.state} after {seconds:g} s.")
