"""config.yaml as typed, checked settings: one file a stage, and the catalogue that holds them."""
