"""Where a machine goes: host, networks, addresses and storage, as pure functions of the estate, each with its rule."""
