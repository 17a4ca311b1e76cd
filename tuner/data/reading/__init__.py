"""Files to rows: tables, JSON, Parquet and text, with the place of every fault."""
