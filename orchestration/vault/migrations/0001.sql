-- The vault as it began. {serial} is a number that the database gives out.
CREATE TABLE vault (
    id INTEGER PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    region VARCHAR(200) NOT NULL,
    subscription VARCHAR(200) NOT NULL,
    profile VARCHAR(20) NOT NULL,
    created DOUBLE PRECISION NOT NULL
);
CREATE TABLE revision (
    id {serial},
    at DOUBLE PRECISION NOT NULL,
    who VARCHAR(200) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    estate TEXT NOT NULL
);
CREATE TABLE item (
    id VARCHAR(32) PRIMARY KEY,
    machine VARCHAR(200) NOT NULL UNIQUE,
    protection VARCHAR(200) NOT NULL,
    state INTEGER NOT NULL,
    doing VARCHAR(40),
    reason TEXT,
    epoch INTEGER NOT NULL,
    enabled DOUBLE PRECISION NOT NULL,
    due DOUBLE PRECISION NOT NULL,
    last DOUBLE PRECISION,
    application_last DOUBLE PRECISION,
    statistics JSON NOT NULL,
    timeline JSON,
    failures INTEGER NOT NULL,
    sending BOOLEAN NOT NULL,
    lease_holder VARCHAR(64),
    lease_until DOUBLE PRECISION NOT NULL
);
CREATE INDEX item_due ON item (due);
CREATE TABLE disk (
    item VARCHAR(32) NOT NULL REFERENCES item (id) ON DELETE CASCADE,
    path VARCHAR(1000) NOT NULL,
    replica VARCHAR(1000) NOT NULL,
    replica_id VARCHAR(32),
    generation BIGINT NOT NULL,
    virtual_bytes BIGINT,
    PRIMARY KEY (item, path)
);
CREATE TABLE point (
    item VARCHAR(32) NOT NULL REFERENCES item (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    time VARCHAR(40) NOT NULL,
    at BIGINT NOT NULL,
    application BOOLEAN NOT NULL,
    pinned TEXT,
    generations JSON NOT NULL,
    changed_bytes BIGINT NOT NULL,
    dropped BOOLEAN NOT NULL,
    PRIMARY KEY (item, number)
);
CREATE TABLE key (
    digest VARCHAR(64) PRIMARY KEY,
    created DOUBLE PRECISION NOT NULL,
    used DOUBLE PRECISION,
    used_by VARCHAR(200)
);
CREATE TABLE registered (
    kind VARCHAR(20) NOT NULL,
    name VARCHAR(200) NOT NULL,
    version VARCHAR(100) NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    seen DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE TABLE audit (
    id {serial},
    at DOUBLE PRECISION NOT NULL,
    who VARCHAR(200) NOT NULL,
    what VARCHAR(80) NOT NULL,
    subject VARCHAR(400) NOT NULL,
    result VARCHAR(20),
    ended DOUBLE PRECISION,
    detail TEXT
);
