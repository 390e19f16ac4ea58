"""Files that a run goes on from: no pickle, no code."""
