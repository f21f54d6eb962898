"""Build models: attention, dropout and cross entropy."""
