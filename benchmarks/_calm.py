"""Imported before torch: its threads then wait without spinning, which on shared cores would slow every loop alike."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
