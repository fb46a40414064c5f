"""What tasks stand on: routing by the topology, a base task that retries what passes, logs."""
