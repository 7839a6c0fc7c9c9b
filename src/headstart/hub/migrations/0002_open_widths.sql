-- A module may show one width of a layer only (IA3, BitFit), or none: NULL until another module shows it.
ALTER TABLE layers RENAME TO closed_layers;

CREATE TABLE layers (
    layer TEXT PRIMARY KEY,
    in_features INTEGER,
    out_features INTEGER,
    modules INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO layers SELECT layer, in_features, out_features, modules FROM closed_layers;

DROP TABLE closed_layers;
