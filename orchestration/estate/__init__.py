"""The estate file: everything that site recovery is about, as its operator wrote it down."""
