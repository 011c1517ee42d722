-- Whom the influencer service watches: the operator's table, followed live. `added_at` is where an account's signals
-- begin: what it did before is stored raw and never signalled.
CREATE TABLE influencers (
  address         text        PRIMARY KEY CHECK (address ~ '^0x[0-9a-f]{40}$'),
  influencer_id   text        NOT NULL UNIQUE CHECK (length(influencer_id) BETWEEN 1 AND 64),
  label           text        NOT NULL DEFAULT '',
  priority        int         NOT NULL DEFAULT 0,
  markets         text[],
  backoff_first_s double precision CHECK (backoff_first_s > 0),
  backoff_max_s   double precision CHECK (backoff_max_s >= backoff_first_s),
  enabled         boolean     NOT NULL DEFAULT true,
  added_at        timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now()
);

-- Nobody watched an account while it was disabled: it begins anew. Written here, so that it holds whoever writes.
CREATE FUNCTION influencers_touch() RETURNS trigger LANGUAGE plpgsql AS $fn$
BEGIN
  NEW.updated_at := now();
  IF NEW.enabled AND NOT OLD.enabled AND NEW.added_at = OLD.added_at THEN
    NEW.added_at := now();
  END IF;
  RETURN NEW;
END $fn$;
CREATE TRIGGER influencers_touch BEFORE UPDATE ON influencers FOR EACH ROW EXECUTE FUNCTION influencers_touch();

CREATE FUNCTION influencers_notify() RETURNS trigger LANGUAGE plpgsql AS $fn$
BEGIN
  PERFORM pg_notify('influencers', '');
  RETURN NULL;
END $fn$;
CREATE TRIGGER influencers_notify AFTER INSERT OR UPDATE OR DELETE ON influencers
  FOR EACH STATEMENT EXECUTE FUNCTION influencers_notify();

-- What an account holds after the newest stored fill of each coin, or by the venue's own statement (`event_id` is empty
-- then). Leverage and margin mode as the venue stated them last.
CREATE TABLE influencer_positions (
  address     text        NOT NULL,
  coin        text        NOT NULL,
  size        numeric     NOT NULL,
  time        timestamptz NOT NULL,
  event_id    text        NOT NULL DEFAULT '',
  leverage    int,
  margin_mode text,
  updated_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (address, coin)
) WITH (fillfactor = 50);

-- Everything the venue told of a watched account, unmodified: json keeps its text byte for byte. The key is what makes
-- a fill one fill, whoever brought it and however often.
CREATE TABLE influencer_raw_events (
  time               timestamptz NOT NULL,
  influencer_address text        NOT NULL,
  event_type         text        NOT NULL
                     CHECK (event_type IN ('FILL', 'ORDER_UPDATE', 'POSITION_SNAPSHOT', 'POSITION_UPDATE')),
  id                 text        NOT NULL,
  market             text,
  raw_payload        json        NOT NULL,
  source             text        NOT NULL CHECK (source IN ('live', 'repair')),
  listener           smallint,
  received_at        timestamptz NOT NULL,
  ingested_at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (influencer_address, event_type, id, time)
);
SELECT create_hypertable('influencer_raw_events', by_range('time', INTERVAL '7 days'), create_default_indexes => false);
-- An account's newest events, and those between two times.
CREATE INDEX influencer_raw_events_time ON influencer_raw_events (influencer_address, time DESC);

-- One position change each. Nothing is ever revised.
CREATE TABLE influencer_signals (
  time            timestamptz NOT NULL,
  signal_id       text        NOT NULL,
  influencer_id   text        NOT NULL,
  exchange        text        NOT NULL,
  market          text        NOT NULL,
  action          text        NOT NULL CHECK (action IN ('OPEN', 'CLOSE', 'INCREASE', 'DECREASE', 'FLIP')),
  side            text        NOT NULL CHECK (side IN ('LONG', 'SHORT', 'FLAT')),
  size            numeric     NOT NULL,
  delta_size      numeric     NOT NULL,
  price           numeric     NOT NULL,
  source_event_id text        NOT NULL,
  metadata        jsonb       NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (signal_id, time)
);
SELECT create_hypertable('influencer_signals', by_range('time', INTERVAL '30 days'), create_default_indexes => false);
CREATE INDEX influencer_signals_time ON influencer_signals (influencer_id, market, time DESC);

DO $do$ BEGIN
  IF current_setting('timescaledb.license', true) = 'timescale' THEN
    EXECUTE $q$ALTER TABLE influencer_raw_events SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'influencer_address', timescaledb.orderby = 'time')$q$;
    EXECUTE $q$CALL add_columnstore_policy('influencer_raw_events', after => INTERVAL '14 days', if_not_exists => true)$q$;
  END IF;
END $do$;
