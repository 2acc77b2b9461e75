"""What was recorded, and what was found of it, in the formats of others: arrays, tables, graphs."""
