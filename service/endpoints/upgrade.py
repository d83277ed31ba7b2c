"""GET /v1/stream without a WebSocket: which headers are missing, and how a proxy passes them."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.errors import UpgradeRequired
from service.web.context import caller_of

router = APIRouter()

NGINX = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'


@router.get("/v1/stream", include_in_schema=False)
async def explain(request: Request) -> None:
    """Raises: UpgradeRequired."""
    caller = caller_of(request.scope)
    missing = []
    if caller.field(b"upgrade").lower() != "websocket":
        missing.append("'Upgrade: websocket'")
    if "upgrade" not in {option.strip() for option in caller.field(b"connection").lower().split(",")}:
        missing.append("'Connection: Upgrade'")
    raise UpgradeRequired(
        f"/v1/stream is a WebSocket, and the request came without {' and '.join(missing)}; a proxy on the way must "
        f"pass them on, in nginx by {NGINX}"
    )
