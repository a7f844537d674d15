"""State, statistics and health of a protected item (R8): computed from acknowledged generations, never from a claim."""
