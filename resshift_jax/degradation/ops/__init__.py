"""The operators that degradations are made of."""
