"""Models and what is asked of them: tasks, losses, metrics, flat parameters, devices."""
