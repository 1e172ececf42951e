"""The HTTP face: decodes, decides, appends, reads views, streams events."""
