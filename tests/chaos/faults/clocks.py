"""Wall clocks that are stepped forwards and backwards, and stay there for a while."""

from tests.chaos.faults.scene import Scene, fault

STEPS_SECONDS = (-86_400, -3_600, -30, -3, 3, 30, 3_600, 86_400)


@fault("clocks")
async def redis_clock_stepped(scene: Scene) -> None:
    """The clock of Redis is stepped, and back."""
    await _step(scene, ["redis"])


@fault("clocks")
async def host_clocks_stepped(scene: Scene) -> None:
    """The clocks of one or both hosts are stepped, and back."""
    hosts = [name for name in sorted(scene.system.clocks) if name.startswith("host-")]
    await _step(scene, scene.random.sample(hosts, scene.random.randint(1, len(hosts))))


async def _step(scene: Scene, names: list[str]) -> None:
    steps = {name: scene.random.choice(STEPS_SECONDS) for name in names}
    for name, seconds in steps.items():
        scene.system.clocks[name].step(seconds)
    try:
        waited = await scene.wait(2.5, 7.0)
        said = ", ".join(f"{name} by {seconds:+d} s" for name, seconds in steps.items())
        scene.note(f"{said}, for {waited:.1f} s")
    finally:
        for name in names:
            scene.system.clocks[name].step(0)
