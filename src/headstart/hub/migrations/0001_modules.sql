-- One row per folder of the hub. A row with a reason is a folder that cannot be used, and why.
-- stamp: sizes and times of its files when it was last read. card: ModuleCard as JSON, once it was known.
CREATE TABLE modules (
    name TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    tensor_hash TEXT,
    card TEXT,
    backbone TEXT,
    reason TEXT
) WITHOUT ROWID;

CREATE UNIQUE INDEX one_module_per_hash ON modules (tensor_hash) WHERE reason IS NULL;

-- Widths of each backbone layer that usable modules adapt, and how many modules adapt it.
CREATE TABLE layers (
    layer TEXT PRIMARY KEY,
    in_features INTEGER NOT NULL,
    out_features INTEGER NOT NULL,
    modules INTEGER NOT NULL
) WITHOUT ROWID;
