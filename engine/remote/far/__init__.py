"""Another host's replica, read as if it were here."""
