-- Whether the resync of an item may begin other replicas where those that it knows are lost: an operator asked for it.
ALTER TABLE item ADD COLUMN anew BOOLEAN NOT NULL DEFAULT FALSE;
