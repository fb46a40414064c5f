"""What every task gets: routing by the topology, the base task, set-up of the worker's processes."""
