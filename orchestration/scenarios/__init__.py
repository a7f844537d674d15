"""The five scenarios as data (the overview's matrix), and the one code path that holds an estate to them."""
