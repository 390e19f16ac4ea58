"""Arrays of any library: whose they are, what is wrong with them, how they are nested."""
