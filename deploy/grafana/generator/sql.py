"""SQL over the views, with the variables and macros of Grafana.

Times are milliseconds. `$__unixEpochFrom()` becomes a number of seconds that PostgreSQL takes for
an `integer`, which a multiplication by 1000 exceeds: hence the casts.
"""

from collections.abc import Mapping
from typing import Final

from deploy.grafana.generator.panels import Query

FROM: Final = "$__unixEpochFrom()::bigint * 1000"
TO: Final = "$__unixEpochTo()::bigint * 1000"
NOW: Final = "(extract(epoch FROM now()) * 1000)::bigint"
LIVING: Final = "('pending', 'starting', 'running', 'stopping', 'restarting')"
LIVING_AGENTS: Final = f"""
    FROM muster.agents WHERE status IN {LIVING}
        AND pool_name IN ($pool) AND project_id IN ($project)"""
ROWS_MAX: Final = 200
"""Of a list."""


def query(text: str) -> Query:
    """Without the line breaks and indents of the source."""
    return Query(" ".join(text.split()))


def at(column: str) -> str:
    """A time that Grafana shows as one; none where it has not happened."""
    return f"to_timestamp(nullif({column}, 0) / 1000.0)"


def bucket(column: str) -> str:
    """The start of the part of the chart that a time is in."""
    return f"to_timestamp({column} / $__interval_ms * $__interval_ms / 1000.0)"


def between(column: str) -> str:
    """Whether a time is shown."""
    return f"{column} BETWEEN {FROM} AND {TO}"


def json_of(column: str) -> str:
    """JSON that PostgreSQL can take apart: it refuses to make a text of a NUL in it."""
    return rf"replace({column}, '\u0000', '\ufffd')::json"


def levels(selected: str, end: str = "") -> Query:
    """What pools had at each point of the chart. `selected`: columns, of `pool` and `had`."""
    return query(f"""
        SELECT to_timestamp(point.ms / 1000.0) AS "time", {selected}
        {_points("CROSS JOIN", "")} {end} ORDER BY 1""")


def changes(counts: Mapping[str, str]) -> Query:
    """What happened in all pools from each point of the chart to the next one.

    `counts`: titles, by the columns of `usage_sums`.
    """
    each = ", ".join(
        f"lead(coalesce(had.{name}, 0)) OVER by_time - coalesce(had.{name}, 0) AS {name}"
        for name in counts
    )
    sums = ", ".join(f'sum({name}) AS "{title}"' for name, title in counts.items())
    return query(f"""
        SELECT "time", {sums}
        FROM (SELECT to_timestamp(point.ms / 1000.0) AS "time", {each}
            {_points("LEFT JOIN", "ON true")}
            WINDOW by_time AS (PARTITION BY pool.pool_name ORDER BY point.ms)) AS change
        WHERE {next(iter(counts))} IS NOT NULL GROUP BY 1 ORDER BY 1""")


def _points(join: str, on: str) -> str:
    """Each point, the end of the chart included, with each pool and what that had come to."""
    return f"""
        FROM generate_series({FROM} / $__interval_ms, {TO} / $__interval_ms + 1) AS step
        CROSS JOIN LATERAL (SELECT least(step * $__interval_ms, {TO}) AS ms) AS point
        CROSS JOIN muster.pools AS pool
        {join} LATERAL (
            SELECT * FROM muster.usage_sums AS sums
            WHERE sums.pool_name = pool.pool_name AND sums.account = 0
                AND sums.minute <= point.ms / 60000 AND sums.at <= point.ms
            ORDER BY sums.minute DESC LIMIT 1) AS had {on}
        WHERE pool.pool_name IN ($pool)"""


def usage(spans: str, first: str, groups: str) -> Query:
    """What projects used within spans, each as docs/usage.md defines it, exact for full minutes.

    `spans`: a query with `since` and `until` in ms; `first`: columns of it; `groups`: how many.
    """

    def hours(level: str) -> str:
        ends = f"after.{level}_ms + after.{level} * (span.until - after.at)"
        starts = f"before.{level}_ms + before.{level} * (span.since - before.at)"
        return f"round(sum({ends} - coalesce({starts}, 0)) / 3600000.0, 6)"

    def times(count: str) -> str:
        return f"sum(after.{count} - coalesce(before.{count}, 0))"

    def sums_at(time: str) -> str:
        return f"""
            SELECT * FROM muster.usage_sums AS sums
            WHERE sums.pool_name = account.pool_name AND sums.account = account.account
                AND sums.minute <= {time} / 60000 AND sums.at < {time}
            ORDER BY sums.minute DESC LIMIT 1"""

    return query(f"""
        SELECT {first} account.project_id AS "project", account.pool_name AS "pool",
            {hours("slots_used")} AS "slot hours", {hours("pending")} AS "waiting hours",
            {hours("agents")} AS "agent hours",
            {times("requested")} AS "agents requested", {times("ended")} AS "ended",
            {times("claims")} AS "claims", {times("cold_starts")} AS "cold starts",
            {times("restarts")} AS "restarts", {times("failures")} AS "failures",
            {times("losses")} AS "losses"
        FROM ({spans}) AS span
        JOIN muster.usage_accounts AS account ON account.account <> 0
            AND account.pool_name IN ($pool) AND account.project_id IN ($project)
        JOIN LATERAL ({sums_at("span.until")}) AS after ON true
        LEFT JOIN LATERAL ({sums_at("span.since")}) AS before ON true
        GROUP BY {groups} HAVING {hours("agents")} > 0 OR {times("requested")} > 0
        ORDER BY 1 DESC, "slot hours" DESC""")


THIS_SPAN: Final = f"SELECT {FROM} AS since, least({TO}, {NOW}) AS until"
MONTHS: Final = f"""
    SELECT to_char(month, 'YYYY-MM') AS month, (extract(epoch FROM month) * 1000)::bigint AS since,
        least((extract(epoch FROM month + interval '1 month') * 1000)::bigint, {NOW}) AS until
    FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '11 months',
        date_trunc('month', now() AT TIME ZONE 'UTC'), '1 month') AS month"""
"""This month and the eleven before it, in UTC."""
