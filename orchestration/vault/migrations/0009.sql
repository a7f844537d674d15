-- Drills that were done.
CREATE TABLE drill (
    id VARCHAR(32) PRIMARY KEY,
    machine VARCHAR(200) NOT NULL,
    began FLOAT NOT NULL,
    ok BOOLEAN NOT NULL,
    up_seconds FLOAT,
    path TEXT
);
CREATE INDEX drill_machine ON drill (machine, began);
