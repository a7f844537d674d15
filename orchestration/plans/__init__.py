"""Recovery plans (R12.4 to R12.9): machines in groups, what is done around them, and the durable run of it."""
