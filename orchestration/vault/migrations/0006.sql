-- Application-consistent points of an item (application.py), how a machine is let go on whose cycle was killed while it
-- was at rest (rest.py), and what its tripwire knows (tripwire.py).
ALTER TABLE item ADD COLUMN application JSON;
ALTER TABLE item ADD COLUMN at_rest JSON;
ALTER TABLE item ADD COLUMN tripwire JSON;
