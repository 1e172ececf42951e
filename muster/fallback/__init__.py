"""A log of its own for `muster up`, for when Redis cannot be reached at the start.

last_seen      which names this host had, and how far the catalogue of the real log was
directory      the folders of fallbacks: the one that serves, those that wait, those that are done
standby        whether a fallback is wanted, needed and allowed, and one that serves
inventory      what lives in a fallback, listed before it is retired
primary_log    the real log: whether it may be handed anything, and what it answers
handover       the step of a later start that hands over what was listed, and reports it
"""
