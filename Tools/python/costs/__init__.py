"""What the broker spends on a frame and on a task: counts that no load of the machine changes."""
