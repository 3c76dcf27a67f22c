"""Reports become records, records become dataframes: one row per replica, and one per replica and evaluation."""
