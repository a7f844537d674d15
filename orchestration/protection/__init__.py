"""Protection: cycles of the vault's items by their policies, and what operators do to them."""
