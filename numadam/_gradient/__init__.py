"""Check of derivatives by differences."""
