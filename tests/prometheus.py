"""A Prometheus for tests, with the configuration of compose.yaml but for its addresses."""

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.process import ServerProcess, accepts, free_port, system_tool
from tests.unit.source.pages import ROOT
from tests.waiting import until

FOLDER = ROOT / "deploy" / "prometheus"
CONFIG, RULES = FOLDER / "prometheus.yml", FOLDER / "muster.rules.yml"


def configuration(addresses: Mapping[str, str], token_file: Path, interval: str) -> dict[str, Any]:
    """That of the repository; `addresses` by job: every job of it, and no other, has one."""
    found: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    found["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    left = dict(addresses)
    for job in found["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [left.pop(job["job_name"])]}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(token_file)
    assert not left, f"nothing scrapes {left}"
    return found


class PrometheusServer:
    """Started on a folder of its own; `stop` ends it."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.port = free_port()
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        shutil.copy(RULES, folder)
        (folder / CONFIG.name).write_text(yaml.safe_dump(config))
        self._process = ServerProcess(
            [
                system_tool("prometheus"),
                f"--config.file={folder / CONFIG.name}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            folder / "prometheus.log",
        )

    async def start(self) -> None:
        """Wait until it answers queries."""
        self._process.start(lambda: accepts(self.port))
        await until(self._ready)

    async def _ready(self) -> bool:
        async with self._session.get("/-/ready") as response:
            return response.status == 200

    async def stop(self) -> None:
        """End it by its process id."""
        await self._session.close()
        self._process.end([signal.SIGTERM])

    async def ask(self, query: str) -> list[Any]:
        """What an instant query finds. Raises `AssertionError` for one that it refuses."""
        return list((await self._get("query", query=query))["result"])

    async def label_values(self, metric: str, label: str) -> list[str]:
        """As `label_values` of Grafana finds them."""
        found: Any = await self._get(f"label/{label}/values", **{"match[]": metric})
        return list(found)

    async def _get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"/api/v1/{path}", params=parameters) as response:
            body = await response.json()
            assert body["status"] == "success", body
            return body["data"]
