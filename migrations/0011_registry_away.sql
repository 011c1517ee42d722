-- Vendors that did not answer for a symbol in the last run, each with the first night of it in a row: what their answer
-- could have turned is held as it was, but not for ever.
ALTER TABLE coin_registry ADD COLUMN away_since jsonb NOT NULL DEFAULT '{}';
