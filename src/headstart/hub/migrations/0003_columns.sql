-- Columns for what people filter and sort by. Rows written before lack them, so the folders are read again.
DROP TABLE modules;

DELETE FROM layers;

-- reason: why the folder cannot be used; such a row may lack everything that comes from the card.
-- stamp: sizes and times of the folder's files when it was last read. folded: the name as others must not repeat it.
-- digest: of what the module computes. shape: of its configuration and its tensors' names, types and shapes.
-- added: time of the folder, in seconds since 1970. text: what a search for words looks through, in small letters.
-- seal: hash over the row, so that a damaged one is told from a sound one.
CREATE TABLE modules (
    name TEXT PRIMARY KEY,
    folded TEXT NOT NULL,
    stamp TEXT NOT NULL,
    reason TEXT,
    tensor_hash TEXT,
    digest TEXT,
    shape TEXT,
    kind TEXT,
    variant TEXT,
    family TEXT,
    task TEXT,
    metric TEXT,
    license TEXT,
    base_model TEXT,
    rank INTEGER,
    parameters INTEGER,
    score REAL,
    added REAL,
    text TEXT,
    backbone TEXT,
    card TEXT,
    seal TEXT NOT NULL
) WITHOUT ROWID;

CREATE UNIQUE INDEX one_module_per_hash ON modules (tensor_hash) WHERE reason IS NULL;
CREATE INDEX modules_by_folded ON modules (folded);
CREATE INDEX modules_by_kind ON modules (kind, variant) WHERE reason IS NULL;
CREATE INDEX modules_by_family ON modules (family) WHERE reason IS NULL;
CREATE INDEX modules_by_task ON modules (task) WHERE reason IS NULL;
CREATE INDEX modules_by_metric ON modules (metric) WHERE reason IS NULL;
CREATE INDEX modules_by_license ON modules (license) WHERE reason IS NULL;
CREATE INDEX modules_by_score ON modules (score) WHERE reason IS NULL;
CREATE INDEX modules_by_added ON modules (added) WHERE reason IS NULL;
CREATE INDEX problems ON modules (name) WHERE reason IS NOT NULL;
