"""Check of a gradient: the user's formula beside differences of `fun`."""
