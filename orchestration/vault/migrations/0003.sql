-- The estate as the program reads it fastest; what was applied before has its text alone.
ALTER TABLE revision ADD COLUMN packed TEXT;
