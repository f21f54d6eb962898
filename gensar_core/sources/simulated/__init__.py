"""Simulate a small shop and write its logs in the raw formats of the Amazon release."""
