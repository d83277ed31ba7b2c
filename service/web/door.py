"""Refusals from the head: what no model of a task has room for is answered before its body is read.

Where a body has come along with its head, as short ones do, the model that it names decides. It knows heads and the
parts of the service, not connections. An event loop that was held up reads thousands of heads in one turn, before any
of them gets further: those let in count as a row each until the turn has ended, or all would be let in where one fits.
Invariant: whoever is refused here is answered, logged and counted as the route would have done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from starlette.types import Scope

from service.contract.manifest import Task
from service.errors import Unauthorized, Unavailable
from service.web.answers import WholeAnswer
from service.web.auth import bearer, tenant_of
from service.web.bodies import WHOLE
from service.web.context import Caller, Service, forget_caller
from service.web.error_shapes import ErrorAnswers
from service.web.middleware import add_id, record
from service.web.paths import Paths
from service.web.routes import BodyRoute

DOOR = "baton.door"  # its place in the state of the application's lifespan


class Door:
    """Looks at the heads of requests to `routes`."""

    def __init__(self, service: Service, routes: Sequence[BodyRoute], errors: ErrorAnswers) -> None:
        self._service, self._errors = service, errors
        self._routes = Paths({route.path: route for route in routes})
        # Who was let in for which model, or where none is named for which task, in this turn of the event loop.
        self._ahead: Counter[tuple[Task | None, str | None, str]] = Counter()

    def refuse(self, target: bytes, scope: Scope, body: bytes | None) -> WholeAnswer | None:
        """Return the answer to a POST that is refused, with its id, or None where it must be heard out.

        `body` is the whole body, None where that has not come.
        `scope` lacks what follows from the request's target, and gets it where the answer is a refusal.
        """
        path, _, query = target.partition(b"?")
        found = self._routes.find(path.decode("latin-1"))
        if found is None:
            return None
        try:
            fields = dict(reversed(scope["headers"]))  # of a field that stands twice, the first
            given = bearer(fields.get(b"authorization", b"").decode("latin-1"))
            key = self._service.authenticator.tenant_key(given)
            tenant = tenant_of(key)
            task, name = found.value.wanted(found.parameters, body)
            who = None if name else task, name, tenant
            self._service.engines.admit(task, tenant, ahead=self._ahead[who], name=name)
        except Unauthorized:
            return None
        except Unavailable as error:
            scope.update(method="POST", path=path.decode(), raw_path=path, query_string=query)
            caller = Caller(scope, self._service)
            if caller.field(b"upgrade"):  # its body may be lost, and the connection has to close
                return None
            caller.endpoint, caller.key = found.declared, key
            answer = self._errors.answer(caller, error)
            add_id(caller, answer.raw_headers)
            record(caller, answer.status_code)
            forget_caller(scope)
            return answer
        if not self._ahead:
            asyncio.get_running_loop().call_soon(self._ahead.clear)
        self._ahead[who] += 1
        if body is not None:
            scope[WHOLE] = body
        return None
