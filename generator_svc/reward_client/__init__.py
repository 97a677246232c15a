"""The generator's side of the reward protocol: replicas, placement, failover."""
