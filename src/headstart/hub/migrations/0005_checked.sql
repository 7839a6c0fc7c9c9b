-- The whole file carries a checksum now, so rows need no seal, and large rows lie better in a table with row numbers.
-- Columns that no query can look up through an index have none: they are compared by parts, or sorted with gaps last.
DROP TABLE modules;

DELETE FROM layers;

-- One row per folder of the hub. reason: why it cannot be used; such a row may lack what comes from the card.
-- twin: the name in the form in which two modules must differ. stamp: sizes and times of the files when last read.
-- digest: of what the module computes. shape: of its configuration and its tensors' names, types and shapes.
-- added: time of the folder, in seconds since 1970. text: what a search for words looks through, in small letters.
CREATE TABLE modules (
    name TEXT PRIMARY KEY NOT NULL,
    twin TEXT NOT NULL,
    stamp TEXT NOT NULL,
    reason TEXT,
    tensor_hash TEXT,
    digest TEXT,
    shape TEXT,
    kind TEXT COLLATE NOCASE,
    variant TEXT COLLATE NOCASE,
    family TEXT COLLATE NOCASE,
    task TEXT COLLATE NOCASE,
    metric TEXT COLLATE NOCASE,
    license TEXT COLLATE NOCASE,
    base_model TEXT COLLATE NOCASE,
    rank INTEGER,
    parameters INTEGER,
    score REAL,
    added REAL,
    text TEXT,
    backbone TEXT,
    card TEXT
);

CREATE UNIQUE INDEX one_module_per_hash ON modules (tensor_hash) WHERE reason IS NULL;
CREATE INDEX modules_by_twin ON modules (twin);
CREATE INDEX modules_by_kind ON modules (kind) WHERE reason IS NULL;
CREATE INDEX modules_by_task ON modules (task) WHERE reason IS NULL;
CREATE INDEX modules_by_metric ON modules (metric) WHERE reason IS NULL;
CREATE INDEX modules_by_license ON modules (license) WHERE reason IS NULL;
CREATE INDEX usable ON modules (reason, name);
CREATE INDEX problems ON modules (name) WHERE reason IS NOT NULL;
CREATE INDEX stated_backbones ON modules (name) WHERE backbone IS NOT NULL AND reason IS NULL;
CREATE INDEX stamps ON modules (name, stamp);

UPDATE schema SET version = 5;
