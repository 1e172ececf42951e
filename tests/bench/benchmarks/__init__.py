"""One file per benchmark: `async def run(setup) -> Report`."""
