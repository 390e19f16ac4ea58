"""Many problems under one compiled objective, vectorised across the problems."""
