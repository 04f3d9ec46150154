"""From measured tables to an analytical performance-power model with stated errors."""
