"""GenSAR: unified generative search and recommendation. Importing the package loads nothing heavy."""

__version__ = "0.1.0"
