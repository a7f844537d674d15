"""Who this host is, whom it knows, and what each may do."""
