"""A log of its own for `muster up`, for when Redis cannot be reached at the start.

surroundings   what this data folder last saw of the real log: hosts, pools, position
permission     whether a fallback is wanted, and allowed
folder         the fallback's own log, views and identity
standin        a fallback that serves
probe          whether the real Redis answers again
changeover     the step of a later start that takes over; `soundness` says whether it may
handover       every agent handed over once, or named: from `giving` over `outbox` to `taking`
report         what came of it
"""
