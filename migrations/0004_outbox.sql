-- Messages committed together with the rows they announce, deleted once the broker confirmed them.
-- One row per flush and lane: the arrays run in parallel, one element per message.
CREATE TABLE bus_outbox (
  owner      text        NOT NULL,
  lane       smallint    NOT NULL,
  id         bigint      GENERATED ALWAYS AS IDENTITY,
  created_at timestamptz NOT NULL DEFAULT now(),
  keys       text[]      NOT NULL,
  ids        text[]      NOT NULL,
  headers    text[]      NOT NULL,
  payloads   bytea[]     NOT NULL,
  PRIMARY KEY (owner, lane, id)
);
