"""Laws of data sets."""
