"""A vault made anew from the replicas, which know all that must not be lost (D8, M16)."""
