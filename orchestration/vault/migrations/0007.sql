-- Failover: where a machine runs, which way it replicates, what is under way, and the replicas of the way back.
ALTER TABLE item ADD COLUMN active VARCHAR(10) NOT NULL DEFAULT 'source';
ALTER TABLE item ADD COLUMN direction VARCHAR(10) NOT NULL DEFAULT 'forward';
ALTER TABLE item ADD COLUMN failover JSON;
ALTER TABLE item ADD COLUMN test JSON;
ALTER TABLE item ADD COLUMN away JSON;
ALTER TABLE disk ADD COLUMN back VARCHAR(1000);
ALTER TABLE disk ADD COLUMN back_id VARCHAR(32);
ALTER TABLE point ADD COLUMN direction VARCHAR(10) NOT NULL DEFAULT 'forward';
CREATE TABLE rehearsal (
    id {serial},
    machine VARCHAR(200) NOT NULL,
    began DOUBLE PRECISION NOT NULL,
    ended DOUBLE PRECISION NOT NULL,
    who VARCHAR(200) NOT NULL,
    point BIGINT,
    forced BOOLEAN NOT NULL,
    notes TEXT
);
