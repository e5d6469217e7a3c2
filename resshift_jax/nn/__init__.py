"""The networks, as Flax Linen modules: arrays in, arrays out; nothing here reads files."""
