"""NBD, the network block device protocol: disks of other programs read and written, and disks served to them."""
