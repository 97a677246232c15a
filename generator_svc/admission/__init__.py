"""What is let in: room in the queue, limits of tenants, deadlines that can be kept."""
