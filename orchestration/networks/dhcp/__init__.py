"""A small DHCP: it tells each of our machines the address that the mapping chose, and answers nobody else."""
