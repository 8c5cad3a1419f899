"""A source of studies: its files (local, zip or S3), its folder layout, its tables and its digests."""
