"""What a worker proposes: from parameters of which age, times which weight, with which outer momentum."""
