#!/bin/sh
# Users and databases besides the views' own, for PostgreSQL's first start (compose.yaml mounts it):
# `muster_reader` for gateways, which only read the views, and `agents` for context.engine().
set -eu

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set reader="$READER_PASSWORD" --set agents="$AGENTS_PASSWORD" <<'SQL'
CREATE ROLE muster_reader LOGIN PASSWORD :'reader';
CREATE SCHEMA IF NOT EXISTS muster;
GRANT USAGE ON SCHEMA muster TO muster_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA muster GRANT SELECT ON TABLES TO muster_reader;

CREATE ROLE agents LOGIN PASSWORD :'agents';
CREATE DATABASE agents OWNER agents;
REVOKE CONNECT ON DATABASE agents FROM PUBLIC;
REVOKE CONNECT ON DATABASE muster FROM PUBLIC;
GRANT CONNECT ON DATABASE muster TO muster_reader;
SQL
