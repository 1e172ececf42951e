"""The HTTP API: decodes, decides, appends, reads views, streams events."""
