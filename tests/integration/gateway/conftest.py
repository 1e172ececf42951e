"""The gateway that most tests of this folder ask."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gateway.stage import GatewayStage, gateway_stage


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway with its views in an SQLite file."""
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        yield stage
