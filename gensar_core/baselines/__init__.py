"""Rank candidates by baseline methods: their interface, the stage that runs one, the methods, and their shared code."""
