-- Runs of recovery plans, and what each of their tasks came to.
CREATE TABLE plan_run (
    id VARCHAR(32) PRIMARY KEY,
    plan VARCHAR(200) NOT NULL,
    kind VARCHAR(20) NOT NULL,
    at VARCHAR(100) NOT NULL,
    who VARCHAR(200) NOT NULL,
    began FLOAT NOT NULL,
    ended FLOAT,
    state VARCHAR(20) NOT NULL,
    attempt INTEGER NOT NULL,
    said TEXT NOT NULL,
    lease_holder VARCHAR(200),
    lease_until FLOAT NOT NULL
);
CREATE TABLE plan_task (
    run VARCHAR(32) NOT NULL REFERENCES plan_run (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    state VARCHAR(20) NOT NULL,
    began FLOAT NOT NULL,
    ended FLOAT,
    detail TEXT,
    PRIMARY KEY (run, number)
);
