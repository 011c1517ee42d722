-- Who may do what. Repeated at the end of every `migrate`: roles belong to the cluster, so that a restored dump comes
-- without them, and a right that is taken away here has to go from databases that had it. Chunks follow their
-- hypertable. A new table gets a line below: without one nobody but its owner sees it, and a test says so.
DO $do$
DECLARE
  role_name text;
  t record;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['trading_migrator', 'trading_writer', 'trading_reader'] LOOP
    IF to_regrole(role_name) IS NULL THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
    END IF;
  END LOOP;
  -- Who is no superuser can only hand a table over to a role that it may become.
  IF NOT pg_has_role('trading_migrator', 'SET') THEN
    EXECUTE format('GRANT trading_migrator TO %I', current_user);
  END IF;

  IF (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()) THEN
    -- A temporary table is a way to fill the disk that no service needs.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO trading_migrator, trading_writer, trading_reader',
                   current_database());
  END IF;
  IF (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = current_schema()) THEN
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO trading_writer, trading_reader', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO trading_migrator', current_schema());
  END IF;

  -- Beside reading; identity columns need no right to their sequence.
  FOR t IN SELECT to_regclass(v.name) AS id, v.writes FROM (VALUES
    ('schema_migrations', NULL),
    ('coin_registry',     'INSERT, UPDATE'),
    ('coin_registry_history', 'INSERT'),
    ('book_samples',      'INSERT'),
    ('raw_bars',          'INSERT, UPDATE'),
    ('footprint_1s',      'INSERT, UPDATE, DELETE'),  -- seconds in which only a fallback venue traded
    ('footprint_deleted', 'INSERT, UPDATE'),
    ('feed_gaps',         'INSERT, UPDATE'),
    ('ingest_cursors',    'INSERT, UPDATE'),
    ('metric_15s',        'INSERT, UPDATE'),
    ('funding_settled',   'INSERT, UPDATE'),
    ('metric_cvd_day',    NULL),                      -- a view
    ('macro_onchain_15m', 'INSERT, UPDATE'),
    ('macro_btc_daily',   'INSERT, UPDATE'),
    ('macro_readings',    'INSERT, UPDATE'),
    ('macro_asks',        'INSERT, UPDATE'),
    ('macro_circuits',    'INSERT, UPDATE'),
    ('macro_quota',       'INSERT, UPDATE, DELETE'),  -- hours that no quota counts any more
    ('influencers',       'INSERT, UPDATE, DELETE'),  -- the operator's table; the service only reads it
    ('influencer_positions', 'INSERT, UPDATE'),
    ('influencer_raw_events', 'INSERT'),
    ('influencer_signals', 'INSERT'),
    ('bus_outbox',        'INSERT, DELETE')           -- what the broker confirmed
  ) AS v(name, writes) WHERE to_regclass(v.name) IS NOT NULL
  LOOP
    IF (SELECT relowner <> to_regrole('trading_migrator') FROM pg_class WHERE oid = t.id) THEN
      EXECUTE format('ALTER TABLE %s OWNER TO trading_migrator', t.id);
    END IF;
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, trading_writer, trading_reader', t.id);
    EXECUTE format('GRANT SELECT ON %s TO trading_writer, trading_reader', t.id);
    IF t.writes IS NOT NULL THEN
      EXECUTE format('GRANT %s ON %s TO trading_writer', t.writes, t.id);
    END IF;
  END LOOP;

  -- What triggers call belongs to whom their tables belong to.
  FOR t IN SELECT to_regprocedure(v.name) AS id
             FROM (VALUES ('influencers_touch()'), ('influencers_notify()')) AS v(name)
            WHERE to_regprocedure(v.name) IS NOT NULL
  LOOP
    IF (SELECT proowner <> to_regrole('trading_migrator') FROM pg_proc WHERE oid = t.id) THEN
      EXECUTE format('ALTER FUNCTION %s OWNER TO trading_migrator', t.id);
    END IF;
  END LOOP;
END $do$;
