-- Which leader may write: the term stands in the row whose lock orders all writers, so that a write of an earlier leader
-- and the beginning of a new term cannot pass each other.
ALTER TABLE counter ADD COLUMN term bigint NOT NULL DEFAULT 0;
