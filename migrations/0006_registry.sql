-- What the nightly run keeps of a symbol beside the verdict: the perpetual's name, the listing day (asked for once), and
-- the counters of its status rules. `judged_on` is the UTC day of the last run that judged it: a second run of the same
-- day counts no night.
ALTER TABLE coin_registry
  ADD COLUMN perp            text,
  ADD COLUMN listed_on       date,
  ADD COLUMN probation_since timestamptz,
  ADD COLUMN excluded_since  timestamptz,
  ADD COLUMN good_nights     int NOT NULL DEFAULT 0,
  ADD COLUMN absent_nights   int NOT NULL DEFAULT 0,
  ADD COLUMN judged_on       date;

-- Every verdict of every run with all that it was made of: what `registry explain` shows and `registry train` learns
-- from. A few hundred rows a night, kept for good.
CREATE TABLE coin_registry_history (
  run_at            timestamptz NOT NULL,
  symbol            text        NOT NULL,
  status            text        NOT NULL,
  data_health       int,
  liquidity_cluster text,
  reason            text,
  breakdown         jsonb       NOT NULL,
  PRIMARY KEY (symbol, run_at)
);
-- When the last run was, and all of one run.
CREATE INDEX coin_registry_history_run_at ON coin_registry_history (run_at);

-- Best bid and ask every five minutes, so that a spread can be the median of a day. `symbol` is the pair.
CREATE TABLE book_samples (
  time       timestamptz NOT NULL,
  symbol     text        NOT NULL,
  bid        numeric     NOT NULL,
  ask        numeric     NOT NULL,
  spread_pct numeric     NOT NULL,
  PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('book_samples', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

DO $do$ BEGIN
  IF current_setting('timescaledb.license', true) = 'timescale' THEN
    EXECUTE $q$SELECT add_retention_policy('book_samples', drop_after => INTERVAL '30 days', if_not_exists => true)$q$;
  END IF;
END $do$;
