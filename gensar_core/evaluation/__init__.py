"""Turn ranks into metric tables and figures."""
