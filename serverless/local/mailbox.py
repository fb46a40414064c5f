"""Pages that show what the local SES has sent: a list, one mail, its attachments."""

from __future__ import annotations

import email
import email.message
import email.policy
import html
import json
import re
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ses.models import ses_backends

PATH = "/_mail"
_ADDRESS = re.compile(rf"{PATH}/(\d+)(?:/(text|html|raw|\d+))?")


def sent() -> list[email.message.EmailMessage]:
    """Every mail sent so far, oldest first, over all regions."""
    backends: dict[str, Any] = ses_backends[DEFAULT_ACCOUNT_ID]
    raw = [message.raw_data for backend in backends.values() for message in backend.sent_messages]
    return [email.message_from_string(data, policy=email.policy.default) for data in raw]


def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """WSGI: /_mail, /_mail.json (numbers, newest first), /_mail/N, and /_mail/N/PART.

    PART: text, html, raw, or the number of an attachment.
    """
    path = environ["PATH_INFO"]
    if path.rstrip("/") == PATH:
        return _answer(start_response, _list_page())
    if path == f"{PATH}.json":
        return _answer(start_response, json.dumps(list(range(len(sent())))[::-1]).encode(), "application/json")
    match = _ADDRESS.fullmatch(path)
    mails = sent()
    if match is None or int(match[1]) >= len(mails):
        return _answer(start_response, b"No such mail.", "text/plain", "404 Not Found")
    number, part = int(match[1]), match[2]
    mail = mails[number]
    if part is None:
        return _answer(start_response, _mail_page(number, mail))
    if part == "raw":
        return _answer(start_response, mail.as_bytes(), "text/plain; charset=utf-8")
    if part in ("text", "html"):
        body = mail.get_body((part if part == "html" else "plain",))
        content = body.get_content() if body else "(no such part)"
        if part == "html":
            # Links open outside the frame, which no site would let itself be shown in.
            content += '<base target="_blank">'
        kind = "text/html" if part == "html" else "text/plain"
        return _answer(start_response, content.encode(), f"{kind}; charset=utf-8")
    attachments = list(mail.iter_attachments())
    if int(part) >= len(attachments):
        return _answer(start_response, b"No such attachment.", "text/plain", "404 Not Found")
    attachment = attachments[int(part)]
    return _answer(start_response, attachment.get_payload(decode=True), attachment.get_content_type())


def _list_page() -> bytes:
    rows = "".join(
        f'<tr><td><a href="{PATH}/{number}">{html.escape(str(mail["Subject"]))}</a></td>'
        f"<td>{html.escape(str(mail['To']))}</td><td>{html.escape(str(mail['Date']))}</td></tr>"
        for number, mail in reversed(list(enumerate(sent())))
    )
    table = f"<table><tr><th>Subject</th><th>To</th><th>Date</th></tr>{rows}</table>" if rows else "<p>None yet.</p>"
    return _page("Mail sent by this laptop's SES", f"<p>Nothing here left this machine.</p>{table}")


def _mail_page(number: int, mail: email.message.EmailMessage) -> bytes:
    fields = "".join(
        f"<tr><th>{name}</th><td>{html.escape(str(mail[name]))}</td></tr>" for name in ("From", "To", "Subject", "Date")
    )
    attachments = "".join(
        f'<li><a href="{PATH}/{number}/{index}">{html.escape(part.get_filename() or "unnamed")}</a> '
        f"({html.escape(part.get_content_type())})</li>"
        for index, part in enumerate(mail.iter_attachments())
    )
    return _page(
        str(mail["Subject"]),
        f"<table>{fields}</table>"
        f'<p><a href="{PATH}/{number}/text">text</a> <a href="{PATH}/{number}/raw">raw</a></p>'
        f"<h2>Attachments</h2><ul>{attachments or '<li>None</li>'}</ul>"
        '<iframe sandbox="allow-popups allow-popups-to-escape-sandbox" title="HTML part" '
        f'src="{PATH}/{number}/html"></iframe>'
        f'<p><a href="{PATH}">All mail</a></p>',
    )


def _page(title: str, body: str) -> bytes:
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
        "th,td{text-align:left;padding:.25rem 1rem .25rem 0}iframe{width:100%;height:24rem;border:1px solid #999}"
    )
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{style}</style>'
        f"<h1>{name}</h1>{body}</html>"
    ).encode()


def _answer(
    start_response: StartResponse, body: Any, kind: str = "text/html; charset=utf-8", status: str = "200 OK"
) -> list[bytes]:
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("X-Content-Type-Options", "nosniff"),
        # A mail's HTML may not run scripts or load anything from elsewhere.
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'"),
    ]
    start_response(status, headers)
    return [body]
