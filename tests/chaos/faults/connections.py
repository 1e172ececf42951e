"""The network between Muster and its servers: cut, slow, or silent for a while."""

import asyncio

from tests.chaos.configuration import LEASE_SECONDS
from tests.chaos.faults.scene import Scene, fault
from tests.chaos.proxy import Link, Weather


@fault()
async def replies_cut(scene: Scene) -> None:
    """Connections cut in the middle of Redis' replies, now and then, everywhere."""
    links = list(scene.system.redis_links.values())
    share = scene.random.choice((0.01, 0.05, 0.2))
    before = sum(link.cuts for link in links)
    await _weather(scene, links, Weather(cut_share=share), f"{share:.0%} of the replies", 1.0, 5.0)
    scene.note(f"{sum(link.cuts for link in links) - before} cuts")


@fault()
async def connections_cut(scene: Scene) -> None:
    """All connections of some processes to Redis cut at once."""
    links = _some(scene, scene.system.redis_links)
    cuts = sum(link.cut() for link in links)
    scene.note(f"{_names(links)}: {cuts} connections")


@fault()
async def connections_silent(scene: Scene) -> None:
    """Connections to Redis that stay open and carry nothing any more, for ever; new ones work."""
    await _silence(scene, _some(scene, scene.system.redis_links))


@fault("postgresql")
async def views_silent(scene: Scene) -> None:
    """The same with connections to PostgreSQL."""
    await _silence(scene, _some(scene, scene.system.views_links))


@fault()
async def links_slow(scene: Scene) -> None:
    """Everything to and from Redis is slow."""
    delay = scene.random.choice((0.02, 0.1, 0.3))
    weather = Weather(request_delay_seconds=delay / 2, reply_delay_seconds=delay / 2)
    links = _some(scene, scene.system.redis_links)
    await _weather(scene, links, weather, f"{_names(links)} by {delay * 1000:.0f} ms", 2.0, 6.0)


@fault()
async def requests_stalled(scene: Scene) -> None:
    """What some processes send to Redis arrives late, after their leases lapsed."""
    links = _some(scene, scene.system.redis_links)
    await _weather(
        scene, links, Weather(requests_stall=True), _names(links), 1.0, LEASE_SECONDS * 3
    )


@fault()
async def hosts_late(scene: Scene) -> None:
    """Requests of each host in turn arrive after its workers were lost, while commands wait.

    The other host is silent briefly before that: else it would have claimed them all.
    """
    hosts = [scene.system.redis_links[role.name] for role in scene.system.kinds("supervisor")]
    scene.random.shuffle(hosts)
    for late, other in (hosts, hosts[::-1]):
        scene.count("outage")
        late.set(Weather(requests_stall=True))
        try:
            await scene.wait(LEASE_SECONDS * 1.7, LEASE_SECONDS * 2.2)
            other.set(Weather(requests_stall=True))
            await asyncio.sleep(LEASE_SECONDS / 4)
            late.clear()
            await asyncio.sleep(LEASE_SECONDS / 10)
        finally:
            late.clear()
            other.clear()
    scene.note(_names(hosts))


@fault()
async def replies_stalled(scene: Scene) -> None:
    """Redis' replies to some processes arrive late: commands are executed, but not confirmed."""
    links = _some(scene, scene.system.redis_links)
    await _weather(scene, links, Weather(replies_stall=True), _names(links), 1.0, LEASE_SECONDS * 3)


@fault()
async def partition(scene: Scene) -> None:
    """Some processes cannot reach Redis at all."""
    links = _some(scene, scene.system.redis_links)
    scene.count("outage")
    for link in links:
        await link.refuse()
    try:
        seconds = await scene.wait(1.0, LEASE_SECONDS * 3)
        scene.note(f"{_names(links)} for {seconds:.1f} s")
    finally:
        for link in links:
            await link.start()


@fault("postgresql")
async def views_cut(scene: Scene) -> None:
    """Connections to PostgreSQL cut in the middle of its replies."""
    links = list(scene.system.views_links.values())
    weather = Weather(cut_share=scene.random.choice((0.02, 0.2)))
    await _weather(scene, links, weather, f"{weather.cut_share:.0%} of the replies", 1.0, 5.0)


@fault("postgresql")
async def views_stalled(scene: Scene) -> None:
    """PostgreSQL's replies to some processes arrive late: the outcome of commits is unknown."""
    links = _some(scene, scene.system.views_links)
    await _weather(scene, links, Weather(replies_stall=True), _names(links), 1.0, 8.0)


async def _silence(scene: Scene, links: list[Link]) -> None:
    scene.count("outage")
    silent = sum(link.silence() for link in links)
    seconds = await scene.wait(1.0, LEASE_SECONDS * 2)
    scene.note(f"{_names(links)}: {silent} connections, {seconds:.1f} s ago")


async def _weather(
    scene: Scene, links: list[Link], weather: Weather, what: str, least: float, most: float
) -> None:
    scene.count("outage")
    for link in links:
        link.set(weather)
    try:
        seconds = await scene.wait(least, most)
        scene.note(f"{what} for {seconds:.1f} s")
    finally:
        for link in links:
            link.clear()


def _some(scene: Scene, links: dict[str, Link]) -> list[Link]:
    """The links of one process, of one host, of some, or all."""
    names = sorted(links)
    hosts = [name for name in names if name.startswith("supervisor")]
    match scene.random.choice(("one", "host", "host", "some", "all")):
        case "host" if hosts:
            names = [scene.random.choice(hosts)]
        case "all":
            pass
        case "some":
            names = sorted(scene.random.sample(names, 2))
        case _:
            names = [scene.random.choice(names)]
    return [links[name] for name in names]


def _names(links: list[Link]) -> str:
    return ", ".join(link.name.rpartition("-")[0] for link in links)
