-- Minutes and seconds of every pair. (symbol, time) is the only index: it serves the upsert and reads by symbol,
-- and a second one on time would cost a fifth more WAL for every row. A fallback venue's candle tells neither its
-- number of trades nor what takers bought: null, never invented.
CREATE TABLE raw_bars (
  time          timestamptz NOT NULL,
  symbol        text        NOT NULL,
  o             numeric     NOT NULL,
  h             numeric     NOT NULL,
  l             numeric     NOT NULL,
  c             numeric     NOT NULL,
  v             numeric     NOT NULL,
  n             int,
  quote_vol     numeric     NOT NULL,
  buy_vol       numeric,
  buy_quote_vol numeric,
  source        text        NOT NULL,
  complete      boolean     NOT NULL,
  grade         smallint    NOT NULL CHECK (grade BETWEEN 1 AND 4),
  rev           int         NOT NULL DEFAULT 1,
  updated_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('raw_bars', by_range('time', INTERVAL '7 days'), create_default_indexes => false);

-- first_id and last_id are the venue's aggregate trade ids; null where a candle supplied the second.
CREATE TABLE footprint_1s (
  time       timestamptz NOT NULL,
  symbol     text        NOT NULL,
  open       numeric     NOT NULL,
  high       numeric     NOT NULL,
  low        numeric     NOT NULL,
  close      numeric     NOT NULL,
  buy_vol    numeric     NOT NULL,
  sell_vol   numeric     NOT NULL,
  buy_quote  numeric     NOT NULL,
  sell_quote numeric     NOT NULL,
  n          int         NOT NULL,
  first_id   bigint,
  last_id    bigint,
  source     text        NOT NULL,
  complete   boolean     NOT NULL,
  grade      smallint    NOT NULL CHECK (grade BETWEEN 1 AND 4),
  rev        int         NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (symbol, time)
);
SELECT create_hypertable('footprint_1s', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

-- Compression and retention exist in the Community edition only. Compress later than the longest repair.
DO $do$ BEGIN
  IF current_setting('timescaledb.license', true) = 'timescale' THEN
    EXECUTE $q$ALTER TABLE raw_bars SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time')$q$;
    EXECUTE $q$CALL add_columnstore_policy('raw_bars', after => INTERVAL '14 days', if_not_exists => true)$q$;
    EXECUTE $q$SELECT add_retention_policy('raw_bars', drop_after => INTERVAL '400 days', if_not_exists => true)$q$;
    EXECUTE $q$ALTER TABLE footprint_1s SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time')$q$;
    EXECUTE $q$CALL add_columnstore_policy('footprint_1s', after => INTERVAL '3 days', if_not_exists => true)$q$;
    EXECUTE $q$SELECT add_retention_policy('footprint_1s', drop_after => INTERVAL '30 days', if_not_exists => true)$q$;
  END IF;
END $do$;
