"""Routes whose requests have a body: refused early where there is no room, read by media type, answered.

It knows FastAPI, bodies and answers, not what they are about. FastAPI draws the OpenAPI page from the same models and
handles no request: `service.web.dispatch` hands them over directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, get_type_hints

from fastapi import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.contract.manifest import Task
from service.web.answers import Reply
from service.web.bodies import JSON, WHOLE, Reader, find_media_type, read_bytes, read_json
from service.web.context import call_of
from service.web.error_shapes import error_responses
from service.web.schema import BatchRequest

BODY_ERRORS = error_responses(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)


class BodyRoute(APIRoute):
    """A route whose endpoint is `async (call, body) -> Reply | Response`, `body` a `BatchRequest` of its own.

    `readers` are by media type; a subclass may have others.
    """

    readers: ClassVar[Mapping[str, Reader]] = {JSON: read_json}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as an ASGI application.

        Raises: RequestError; ClientDisconnect when nobody is there to be answered.
        """
        call = call_of(scope)
        if WHOLE not in scope:
            call.service.engines.admit(self.task, call.tenant)  # a refusal should cost nothing that can be spared
        read = self.readers[find_media_type(call, self.readers)]
        body = read(call, self._body, await read_bytes(call))
        reply: Reply | Response = await self.endpoint(call, body)
        answer = reply if isinstance(reply, Response) else reply.answer()
        await answer(scope, receive, send)

    @property
    def task(self) -> Task:
        return self._body.task

    @cached_property
    def _body(self) -> type[BatchRequest]:
        body: type[BatchRequest] = get_type_hints(self.endpoint)["body"]
        return body
