"""The version of this package. It has a file of its own, so that the lowest modules can name it too."""

__version__ = "0.1.0"
