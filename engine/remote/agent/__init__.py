"""The replica's end: the agent, whom it lets in, and what it does for them."""
