"""What the task files share: reading rows, building tasks, few-shots, scores as lighteval metrics."""
