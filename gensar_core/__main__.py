"""`python -m gensar_core` is `gensar`."""

from gensar_core.cli.main import main

if __name__ == "__main__":
    main()
