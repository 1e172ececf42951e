"""PromQL with the variables of the dashboard."""

from typing import Final

from deploy.grafana.generator.panels import Query

SHORT: Final = {
    "POOL": 'job=~"$job", pool=~"$pool"',
    "LOG": 'job=~"$job", pool=~"$pool|muster:catalogue"',
    "JOB": 'job=~"$job"',
}
"""Placeholders: the series of the chosen jobs, of these those of the chosen pools, and those of
the log of pools and hosts."""


def query(text: str, legend: str) -> Query:
    """`{POOL}`, `{LOG}` and `{JOB}` in the text choose series."""
    for name, selector in SHORT.items():
        for end in (",", "}"):
            text = text.replace(f"{{{name}{end}", f"{{{selector}{end}")
    return Query(text, legend)


def quantiles(metric: str, selector: str, by: str, name: str = "") -> list[Query]:
    """The median and the 99th percentile of a histogram; `name`: a template for what is apart."""
    shown = name or f"{{{{{by}}}}}"
    return [
        query(
            f"histogram_quantile({quantile}, sum by (le, {by})"
            f" (rate({metric}_bucket{{{selector}}}[$__rate_interval])))",
            f"{shown} p{percent}",
        )
        for quantile, percent in ((0.5, 50), (0.99, 99))
    ]


def distribution(metric: str, selector: str) -> list[Query]:
    """What a heatmap needs: how many values fell into each bucket."""
    counted = f"sum by (le) (increase({metric}_bucket{{{selector}}}[$__rate_interval]))"
    return [query(counted, "{{le}}")]
