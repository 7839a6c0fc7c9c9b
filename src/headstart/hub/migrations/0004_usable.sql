-- Counting and naming the usable modules without looking at their rows, which hold whole cards.
CREATE INDEX usable ON modules (reason, name);

UPDATE schema SET version = 4;
