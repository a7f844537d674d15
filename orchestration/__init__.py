"""secondsite.orchestration: the command line, and the site recovery that stands on the engine."""
