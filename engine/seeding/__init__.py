"""First contents that come on a medium instead of a network, and replicas that wait for theirs."""
