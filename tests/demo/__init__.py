"""``python3 dev demo``: the main job, end to end, with real servers."""
