"""One file for each migration, forward only. A released file is never changed."""
