"""Real nodes in network namespaces of one Linux machine, and the medium between them in user space."""
