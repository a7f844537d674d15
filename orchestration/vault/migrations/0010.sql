-- Whether a test failover was a drill.
ALTER TABLE rehearsal ADD COLUMN drill BOOLEAN NOT NULL DEFAULT FALSE;
