-- One row per embedding of a module's content: digest is ModuleRef.digest, method the canonical spec of the embedding.
-- version: of the embedding; another one is computed again. numbers: float32, little-endian. checksum: CRC-32 of them.
CREATE TABLE vectors (
    method TEXT NOT NULL,
    digest TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    backbone TEXT NOT NULL,
    layers INTEGER NOT NULL,
    dimension INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    numbers BLOB NOT NULL
);

CREATE UNIQUE INDEX one_vector_per_content ON vectors (method, digest);
