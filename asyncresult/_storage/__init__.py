"""What a store of records is, who waits for one, and the store in memory."""
