"""The complete pool: real processes, asked over HTTP."""
