-- The Community edition drops by itself what `trading-bus retain` drops elsewhere. Not below 31 days (docs/INFLUENCERS.md).
DO $do$ BEGIN
  IF current_setting('timescaledb.license', true) = 'timescale' THEN
    EXECUTE $q$SELECT add_retention_policy('influencer_raw_events', drop_after => INTERVAL '90 days', if_not_exists => true)$q$;
    EXECUTE $q$SELECT add_retention_policy('influencer_signals', drop_after => INTERVAL '400 days', if_not_exists => true)$q$;
  END IF;
END $do$;
