"""The source's end of a transfer: one cycle over the network, again where a link was cut."""
