"""Reading results: tables, comparisons, gates and sites, from files alone (no torch, no lighteval)."""
