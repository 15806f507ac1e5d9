"""How well maps separate what was distilled from what was left behind."""
