"""Other people's commands, run with limits."""
