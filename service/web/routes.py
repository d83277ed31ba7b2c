"""Routes whose requests have a body: refused early where there is no room, read by media type, answered.

It knows FastAPI, bodies and answers, not what they are about. FastAPI draws the OpenAPI page from the same models and
handles no request: `service.web.dispatch` hands them over directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, get_type_hints

from fastapi import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.contract.manifest import Task
from service.web.answers import Reply
from service.web.bodies import JSON, WHOLE, Reader, find_media_type, guess_model, read_bytes, read_json
from service.web.context import Call, call_of
from service.web.schema import BatchRequest


class BodyRoute(APIRoute):
    """A route whose endpoint is `async (call, body) -> Reply | Response`, `body` a `BatchRequest` of its own.

    `readers` are by media type; a subclass may have others. Parameters of the path follow the body.
    """

    readers: ClassVar[Mapping[str, Reader]] = {JSON: read_json}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as an ASGI application.

        Raises: RequestError; ClientDisconnect when nobody is there to be answered.
        """
        call = call_of(scope)
        if WHOLE not in scope:  # a refusal should cost nothing that can be spared
            task, name = self.wanted(call.path_params, None)
            call.service.engines.admit(task, call.tenant, name=name)
        read = self.choose_reader(call)
        body = read(await read_bytes(call))
        reply: Reply | Response = await self.endpoint(call, body, **call.path_params)
        answer = reply if isinstance(reply, Response) else await reply.answer()
        await answer(scope, receive, send)

    def wanted(self, parameters: Mapping[str, str], body: bytes | None) -> tuple[Task | None, str | None]:
        """Return the task and the model that a request is for, each None where that is open.

        `parameters` are those of its path; `body` is its body, None where that has not come.
        """
        task = self._body.task
        return task, None if body is None else guess_model(body, task)

    def choose_reader(self, call: Call) -> Callable[[bytes], Any]:
        """Return what makes a request of the body's bytes.

        Raises: UnsupportedMediaType.
        """
        return partial(self.readers[find_media_type(call, self.readers)], call, self._body)

    @cached_property
    def _body(self) -> type[BatchRequest]:
        body: type[BatchRequest] = get_type_hints(self.endpoint)["body"]
        return body
