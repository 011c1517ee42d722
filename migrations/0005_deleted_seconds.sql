-- Seconds of a fallback venue that were deleted because the primary was quiet in them, with the revision that said so: a
-- late trade of the primary may bring one back, and its revisions go on from there.
CREATE TABLE footprint_deleted (
  symbol text        NOT NULL,
  time   timestamptz NOT NULL,
  rev    int         NOT NULL,
  PRIMARY KEY (symbol, time)
);
