"""When a worker ends by itself: its supervisor is gone, or a model's thread has died."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from here import vouched

from service.app import create_app
from service.settings import Settings
from service.workers.worker import end_if_useless

pytestmark = pytest.mark.anyio


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    return sent


async def test_a_worker_ends_without_its_supervisor_or_a_model_s_thread_and_not_before(
    tiny_models: Path, tmp_path: Path, signals: list[tuple[int, int]]
) -> None:
    app = create_app(Settings(models_dir=tiny_models, state_dir=tmp_path), tried=vouched(tiny_models))
    service = app.state.service
    async with app.router.lifespan_context(app):
        end_if_useless(service, os.getppid())
        assert signals == []
        end_if_useless(service, os.getppid() + 1)
        assert signals.pop() == (os.getpid(), signal.SIGTERM)
        service.engines.all[0].batcher.alive = False
        end_if_useless(service, os.getppid())
        assert signals.pop() == (os.getpid(), signal.SIGTERM)
        service.engines.all[0].batcher.alive = True
    end_if_useless(service, os.getppid())
    assert signals == [], "a worker that drains ends anyway"
