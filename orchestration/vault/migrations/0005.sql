-- A disk that left its machine: its replica is kept as long as a point needs it.
ALTER TABLE disk ADD COLUMN leaving DOUBLE PRECISION;
