"""What lies in a source: its files wherever they are, its layout, its tables, its digests."""
