# SPDX-License-Identifier: Apache-2.0
"""What stands before Gradio's server, which would take files from visitors and fetch any address they name."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


# Scripts are inline and compiled in the page by Gradio; all that is loaded comes from this server.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'"


class Guard:
    """ASGI middleware: no uploads, no fetching of other addresses, and a page that loads nothing from elsewhere.

    The page has no field for files, yet Gradio's server takes uploads from anybody (`/upload`), and
    `/file=https://...` has it fetch that address.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        path = scope["path"]
        if path.endswith("/upload") or "/file=http" in path or "/proxy=" in path:
            await PlainTextResponse("not here", status_code=403)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)
