-- Every hole in a venue's trade ids: seen, written down, repaired. `missing` shrinks while pieces come back.
CREATE TABLE feed_gaps (
  service    text           NOT NULL,
  venue      text           NOT NULL,
  symbol     text           NOT NULL,
  from_id    bigint         NOT NULL,
  to_id      bigint,
  from_time  timestamptz    NOT NULL,
  to_time    timestamptz,
  missing    int8multirange NOT NULL,
  status     text           NOT NULL CHECK (status IN ('open', 'repaired', 'source_missing', 'not_subscribed')),
  reason     text           NOT NULL,
  tries      int            NOT NULL DEFAULT 0,
  restored_n bigint         NOT NULL DEFAULT 0,
  opened_at  timestamptz    NOT NULL DEFAULT now(),
  updated_at timestamptz    NOT NULL DEFAULT now(),
  PRIMARY KEY (service, venue, symbol, from_id)
);
CREATE INDEX feed_gaps_open ON feed_gaps (service, venue, symbol) WHERE status = 'open';

-- How far each feed is stored. Half-empty pages, because the same rows are updated every few seconds.
CREATE TABLE ingest_cursors (
  service    text        NOT NULL,
  venue      text        NOT NULL,
  symbol     text        NOT NULL,
  last_id    bigint      NOT NULL,
  event_time timestamptz NOT NULL,
  PRIMARY KEY (service, venue, symbol)
) WITH (fillfactor = 50);
