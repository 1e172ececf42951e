"""The version of this distribution; `pyproject.toml` reads it here.

It is not read from the installed metadata: that takes 50 modules more in every process.
"""

__version__ = "0.1.0"
