"""Speed: what a guided token costs next to a plain one."""
