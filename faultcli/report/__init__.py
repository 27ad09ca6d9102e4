"""Results for people and machines, from records alone."""
