"""What handles a request or a connection, decided in one place: by its method, or that it is a WebSocket, and its path.

It knows ASGI and routers, not what handlers do. Invariant: what no handler takes is refused with what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import MethodNotAllowed, NotFound
from service.web.context import Caller, caller_of
from service.web.paths import Paths

WEBSOCKET = "WS"


class Dispatcher:
    """Hands what comes to the handler for its method (or `WEBSOCKET`) and path, and to `router` where there is none.

    A path may hold parameters, as `/models/{name}`; what they are is in the scope for its handler.
    """

    def __init__(self, handlers: Mapping[tuple[str, str], ASGIApp], router: ASGIApp) -> None:
        self._router = router
        self._streams = [path for method, path in handlers if method == WEBSOCKET]
        methods = {method for method, _ in handlers}
        self._handlers = {
            wanted: Paths({path: handler for (method, path), handler in handlers.items() if method == wanted})
            for wanted in methods
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: what the handler raises; NotFound; MethodNotAllowed."""
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
            return
        caller = caller_of(scope)
        paths = self._handlers.get(caller.verb)
        found = None if paths is None else paths.find(caller.path)
        if found is not None:
            caller.endpoint, scope["path_params"] = found.declared, found.parameters
            await found.value(scope, receive, send)
        elif caller.verb == WEBSOCKET:
            raise NotFound(f"there is no WebSocket here; see {', '.join(self._streams)}")
        else:
            await self._route(caller, scope, receive, send)

    async def _route(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            if error.status_code == 405:
                allowed = (error.headers or {}).get("Allow", "")
                raise MethodNotAllowed(f"{caller.verb} is not for this path; use {allowed}", allowed=allowed) from None
            if error.status_code == 404:
                raise NotFound(f"there is nothing at {caller.printable_path}; see /docs") from None
            raise
        finally:
            caller.endpoint = getattr(scope.get("route"), "path", caller.endpoint)
