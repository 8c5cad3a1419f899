"""A source of studies: its files (local, zip or S3), its layout and tables, external masks, and digests."""
