"""The language of Muster (commands, events, state) and its log on Redis Streams.

Everything that the other parts agree on stands here: what can happen (`events`), what an agent,
a worker and a pool are and which step may follow which (`agent`, `worker`, `pool`), how a step is
committed (`step`, `log`, `scripts/`), and how the record is read (`reader`). Nothing here imports
another package of Muster.
"""
