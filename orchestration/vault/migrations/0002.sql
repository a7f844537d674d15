-- How an item that left the estate is to end. Those that are ending leave their replicas as they are.
ALTER TABLE item ADD COLUMN ending JSON;
UPDATE item SET ending = '{"delete": false, "qmp": null}' WHERE doing = 'disable';
