"""Agents that copy the lines they are given onto a page, each line once."""
