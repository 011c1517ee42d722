-- Funding, open interest and signed volume of every 15 seconds; `time` is the window's end. Null is "not known": never
-- zero, never an old value. Who fetches which value when: docs/SEMANTICS.md.
CREATE TABLE metric_15s (
  time               timestamptz NOT NULL,
  symbol             text        NOT NULL,
  funding            double precision,
  open_interest      double precision,
  cvd_delta          double precision,
  funding_interval_h smallint,
  funding_source     text,
  oi_source          text,
  cvd_source         text,
  funding_time       timestamptz,
  oi_time            timestamptz,
  rev                int         NOT NULL DEFAULT 1,
  updated_at         timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('metric_15s', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

-- What perpetuals paid; `funding` above is the forecast of it. One that is not regular stands beside the schedule.
CREATE TABLE funding_settled (
  time       timestamptz NOT NULL,
  symbol     text        NOT NULL,
  rate       numeric     NOT NULL,
  regular    boolean     NOT NULL,
  source     text        NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (symbol, time, regular)
);

-- Signed volume summed up since midnight UTC. A window that ends at midnight belongs to the day before. `unknown` counts
-- the windows of the day so far that have no value or no row: where it is not 0, the sum lacks them.
CREATE VIEW metric_cvd_day AS
SELECT time, symbol, day, cvd_delta,
       sum(cvd_delta::text::numeric) OVER so_far AS cvd,
       ((extract(epoch FROM time) - extract(epoch FROM day::timestamp AT TIME ZONE 'UTC')) / 15)::bigint
         - count(cvd_delta) OVER so_far AS unknown
  FROM (SELECT time, symbol, ((time - interval '15 seconds') AT TIME ZONE 'UTC')::date AS day, cvd_delta
          FROM metric_15s) windows
WINDOW so_far AS (PARTITION BY symbol, day ORDER BY time);

-- What changed in the ledger, and what of it leaves a window unproven.
CREATE INDEX feed_gaps_updated ON feed_gaps (updated_at);
CREATE INDEX feed_gaps_unsettled ON feed_gaps (symbol, from_time) WHERE status <> 'repaired';

DO $do$ BEGIN
  IF current_setting('timescaledb.license', true) = 'timescale' THEN
    EXECUTE $q$ALTER TABLE metric_15s SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time')$q$;
    EXECUTE $q$CALL add_columnstore_policy('metric_15s', after => INTERVAL '3 days', if_not_exists => true)$q$;
    EXECUTE $q$SELECT add_retention_policy('metric_15s', drop_after => INTERVAL '100 days', if_not_exists => true)$q$;
  END IF;
END $do$;
