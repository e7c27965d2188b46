"""The planner: which execution plan ends a run soonest."""
