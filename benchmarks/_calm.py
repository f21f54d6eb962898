"""Make torch's threads wait without spinning, which on shared cores would slow every loop; import this before torch."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
