"""What the commands do; `cli` holds their options. Imported when a command runs, not before."""
