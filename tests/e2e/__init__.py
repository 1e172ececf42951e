"""The whole pool: real processes, asked over HTTP."""
