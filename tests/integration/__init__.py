"""One part at a time, against real servers that the tests start."""
