"""Writes the dashboards for Grafana: `python -m deploy.grafana.generator`, from the top folder.

A panel is a few lines here, and fifty in Grafana's JSON, of which most are the same in each. The
JSON is in the repository, so that it can be imported as it is; a test compares it with what this
writes. What was changed in Grafana itself is to be changed here.
"""
