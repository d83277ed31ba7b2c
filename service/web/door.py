"""Refusals from the head: what no model of a task has room for is answered before its body is read.

Where a body has come along with its head, as short ones do, the model that it names decides. It knows heads and the
parts of the service, not connections. An event loop that was held up reads thousands of heads in one turn, before any
of them gets further: those let in count as a row each until the turn has ended, or all would be let in where one fits.
Invariant: whoever is refused here is answered, logged and counted as the route would have done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from starlette.types import Scope

from service.contract.manifest import Task
from service.errors import Unauthorized, Unavailable
from service.web.answers import JsonAnswer
from service.web.bodies import WHOLE, guess_model
from service.web.context import Caller, Service, forget_caller
from service.web.error_shapes import ErrorAnswers
from service.web.middleware import add_id, record

DOOR = "baton.door"  # its place in the state of the application's lifespan


class Door:
    """Looks at the heads of requests that have a body; `tasks` are by path, as it stands in a head."""

    def __init__(self, service: Service, tasks: Mapping[bytes, Task], errors: ErrorAnswers) -> None:
        self._service, self._tasks, self._errors = service, tasks, errors
        # Who was let in for which model, in this turn of the event loop.
        self._ahead: Counter[tuple[Task, str, str | None]] = Counter()

    def refuse(self, target: bytes, scope: Scope, body: bytes | None) -> JsonAnswer | None:
        """Return the answer to a POST that is refused, with its id, or None where it must be heard out.

        `body` is the whole body, None where that has not come.
        `scope` lacks what follows from the request's target, and gets it where the answer is a refusal.
        """
        path, _, query = target.partition(b"?")
        task = self._tasks.get(path)
        if task is None:
            return None
        try:
            fields = dict(reversed(scope["headers"]))  # of a field that stands twice, the first
            tenant = self._service.authenticator.tenant(fields.get(b"authorization", b"").decode("latin-1"))
            name = None if body is None else guess_model(body, task)
            self._service.engines.admit(task, tenant, ahead=self._ahead[task, tenant, name], name=name)
        except Unauthorized:
            return None
        except Unavailable as error:
            scope.update(method="POST", path=path.decode(), raw_path=path, query_string=query)
            caller = Caller(scope, self._service)
            if caller.field(b"upgrade"):  # its body may be lost, and the connection has to close
                return None
            caller.endpoint = caller.path
            answer = self._errors.answer(caller, error)
            add_id(caller, answer.raw_headers)
            record(caller, answer.status_code)
            forget_caller(scope)
            return answer
        if not self._ahead:
            asyncio.get_running_loop().call_soon(self._ahead.clear)
        self._ahead[task, tenant, name] += 1
        if body is not None:
            scope[WHOLE] = body
        return None
