"""A plan becomes trials: in this process, or on a Ray cluster; both leave the same records."""
