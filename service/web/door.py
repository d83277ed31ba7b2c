"""Refusals from the head alone: what no model of a task has room for is answered before its body is read.

It knows heads and the parts of the service, not connections. Invariant: whoever is refused here would have been refused
by the route, with the same answer, the same line in the log and the same counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

from service.contract.manifest import Task
from service.errors import Unauthorized, Unavailable
from service.web.answers import JsonAnswer
from service.web.context import Caller, Service
from service.web.error_shapes import ErrorAnswers
from service.web.middleware import add_id, record

DOOR = "baton.door"  # its place in the state of the application's lifespan


class Door:
    """Looks at the heads of requests that have a body; `tasks` are by path, as it stands in a head."""

    def __init__(self, service: Service, tasks: Mapping[bytes, Task], errors: ErrorAnswers) -> None:
        self._service, self._tasks, self._errors = service, tasks, errors

    def refuse(self, target: bytes, scope: Scope) -> JsonAnswer | None:
        """Return the answer to a POST that is refused, with its id, or None where it must be heard out.

        `scope` lacks what follows from the request's target, and gets it where the answer is a refusal.
        """
        path, _, query = target.partition(b"?")
        task = self._tasks.get(path)
        if task is None:
            return None
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            tenant = self._service.authenticator.tenant(authorization.decode("latin-1"))
            self._service.engines.admit(task, tenant)
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
            return answer
        return None
