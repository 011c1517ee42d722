-- Which symbols there are, and what the nightly registry run thinks of each. One row per base asset.
CREATE TABLE coin_registry (
  symbol            text PRIMARY KEY,
  status            text NOT NULL,
  data_health       int,
  liquidity_cluster text,
  age_days          int,
  vol_24h           numeric,
  spread_pct        numeric,
  updated_at        timestamptz NOT NULL DEFAULT now(),
  pair              text,
  okx_inst_id       text,
  tick_size         numeric,
  reason            text
);

-- Ingestors look a coin up by the pair they stream.
CREATE INDEX coin_registry_pair ON coin_registry (pair);
