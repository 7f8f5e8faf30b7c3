-- Leases and events change all the time and nobody asks for their past: their entries in the log have no body, which
-- stands in `objects` as long as it is the newest.
ALTER TABLE changes ALTER COLUMN body DROP NOT NULL;

-- Which revision was reached by when, about one row a minute: tells how old the entries of the log and the events are.
CREATE TABLE marks (
    at       timestamptz PRIMARY KEY,
    revision bigint      NOT NULL
);

-- An update that changes no indexed column stays within its page where there is room, and leaves nothing for the
-- indexes to clean up.
ALTER TABLE objects SET (fillfactor = 80);
