-- What filters compare is folded by us, for the small and capital letters of every alphabet; SQLite knows ASCII's alone.
-- Rows written before are not, so the folders are read again.
DELETE FROM modules;

DELETE FROM layers;

UPDATE schema SET version = 6;
