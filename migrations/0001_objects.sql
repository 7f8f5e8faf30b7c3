-- The current state: one row an object. `resource` is plural.group, `namespace` is empty for cluster-scoped objects.
-- `body` is the object as JSON without metadata.resourceVersion (that is `revision`), or sealed where data_key is set.
CREATE TABLE objects (
    resource  text   NOT NULL,
    namespace text   NOT NULL,
    name      text   NOT NULL,
    revision  bigint NOT NULL,
    body      bytea  NOT NULL,
    data_key  bigint,
    PRIMARY KEY (resource, namespace, name)
);
-- Bodies are JSON text: worth compressing only where large, which is PostgreSQL's own choice.

-- The log that watches read. `kind`: 0 added, 1 modified, 2 deleted (then `body` is the last state).
-- Compaction drops whole partitions and never deletes rows.
CREATE TABLE changes (
    revision  bigint   NOT NULL,
    kind      smallint NOT NULL,
    resource  text     NOT NULL,
    namespace text     NOT NULL,
    name      text     NOT NULL,
    body      bytea    NOT NULL,
    data_key  bigint
) PARTITION BY RANGE (revision);

-- One row: the revision of the newest committed write. Its lock orders all writers.
CREATE TABLE counter (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint  NOT NULL
);
INSERT INTO counter (revision) VALUES (0);

-- Keys that seal secrets, themselves wrapped by a key the database never sees.
CREATE TABLE data_keys (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wrapped_by text   NOT NULL,
    wrapped    bytea  NOT NULL
);
