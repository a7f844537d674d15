"""The one format in which blocks travel and rest: on the wire, in a spool, in an undo log (FORMAT.md, section 2)."""
