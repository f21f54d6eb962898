"""Read, clean and number raw tables of any source."""
