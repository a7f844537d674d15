"""Messages between two hosts, and the connection they go over."""
