"""A log of its own for `muster up`, for when Redis cannot be reached at the start.

last_seen      which names this host had, and how far the catalogue of the real log was
eligibility    whether a fallback is wanted, needed and allowed
directory      the folders of fallbacks: the one that serves, those that wait, those that are done
standby        a fallback that serves
inventory      what lives in a fallback, listed before it is retired
handover       the step of a later start that hands over what was listed
primary_log    the real log: whether it may be handed anything, and what it answers
report         what was handed over, and what was not
"""
