-- What the chains tell, market-wide: one row per quarter of an hour, and one per day for Bitcoin's regime. A column is
-- null where nobody could say it; as_of and source hold one entry per known column: the vendor's own time (RFC 3339),
-- and who said it.
CREATE TABLE macro_onchain_15m (
  time               timestamptz NOT NULL,
  btc_ex_netflow     numeric,
  btc_ex_reserve_pct numeric,
  eth_ex_netflow     numeric,
  eth_gas_price      numeric,
  sol_ex_netflow     numeric,
  stbl_cex_netflow   numeric,
  as_of              jsonb       NOT NULL,
  source             jsonb       NOT NULL,
  rev                int         NOT NULL DEFAULT 1,
  updated_at         timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (time)
);
SELECT create_hypertable('macro_onchain_15m', by_range('time', INTERVAL '90 days'), create_default_indexes => false);

CREATE TABLE macro_btc_daily (
  day        date        PRIMARY KEY,
  mvrv       numeric,
  asopr_7d   numeric,
  nupl       numeric,
  as_of      jsonb       NOT NULL,
  source     jsonb       NOT NULL,
  rev        int         NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- Every value that a vendor told, under the vendor's time; a revised one counts its rev.
CREATE TABLE macro_readings (
  column_name text        NOT NULL,
  provider    text        NOT NULL,
  as_of       timestamptz NOT NULL,
  value       numeric     NOT NULL,
  source      text        NOT NULL,
  rev         int         NOT NULL DEFAULT 1,
  updated_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (column_name, provider, as_of)
);

-- When each provider was last asked for each column and how that ended: a restart asks nobody twice.
CREATE TABLE macro_asks (
  provider    text        NOT NULL,
  column_name text        NOT NULL,
  asked_at    timestamptz NOT NULL,
  outcome     text        NOT NULL CHECK (outcome IN ('answered', 'failing', 'refused')),
  error       text        NOT NULL DEFAULT '',
  PRIMARY KEY (provider, column_name)
);

-- Providers that are left alone until a time, because they asked for it or kept failing.
CREATE TABLE macro_circuits (
  provider   text        PRIMARY KEY,
  failures   int         NOT NULL,
  open_until timestamptz NOT NULL,
  error      text        NOT NULL DEFAULT ''
);

-- Calls made, by the hour in which they were begun: what a daily quota is counted from. Written before each call.
CREATE TABLE macro_quota (
  provider text        NOT NULL,
  hour     timestamptz NOT NULL,
  calls    int         NOT NULL,
  PRIMARY KEY (provider, hour)
);
