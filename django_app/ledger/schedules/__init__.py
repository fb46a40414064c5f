"""What becomes of each due time of a schedule."""
