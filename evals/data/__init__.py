"""Where the rows of a benchmark come from: the hub, a folder, or built-in items."""
